(* Finite sums of real numbers, sum n f = f 0 + ... + f (n - 1): what EntropyDynamics.v needs of them. *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
Open Scope R_scope.

Fixpoint sum (n : nat) (f : nat -> R) : R :=
  match n with
  | O => 0
  | S m => sum m f + f m
  end.

(* The unit vector e_k. *)
Definition e (k i : nat) : R := if Nat.eq_dec i k then 1 else 0.

Lemma sum_ext n f g : (forall i, (i < n)%nat -> f i = g i) -> sum n f = sum n g.
Proof. induction n; simpl; intros fg; [|rewrite IHn, fg]; auto. Qed.

Lemma sum_plus n f g : sum n (fun i => f i + g i) = sum n f + sum n g.
Proof. induction n; simpl; lra. Qed.

Lemma sum_minus n f g : sum n (fun i => f i - g i) = sum n f - sum n g.
Proof. induction n; simpl; lra. Qed.

Lemma sum_scal n c f : sum n (fun i => c * f i) = c * sum n f.
Proof. induction n; simpl; lra. Qed.

Lemma sum_const n c : sum n (fun _ => c) = INR n * c.
Proof. induction n; [simpl|rewrite S_INR; simpl]; lra. Qed.

Lemma sum_le n f g : (forall i, (i < n)%nat -> f i <= g i) -> sum n f <= sum n g.
Proof. induction n; simpl; intros fg; [|apply Rplus_le_compat]; auto with real. Qed.

Lemma sum_nonneg n f : (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= sum n f.
Proof. intros pos. rewrite <- (Rmult_0_r (INR n)), <- sum_const. now apply sum_le. Qed.

Lemma term_le_sum n f k : (forall i, (i < n)%nat -> 0 <= f i) -> (k < n)%nat -> f k <= sum n f.
Proof.
  induction n; simpl; intros pos k_n; [lia|].
  assert (0 <= sum n f) by (apply sum_nonneg; auto). assert (0 <= f n) by auto.
  destruct (Nat.eq_dec k n) as [->|]; [|assert (f k <= sum n f) by (apply IHn; auto; lia)]; lra.
Qed.

Lemma sum_pick n f k : (k < n)%nat -> sum n (fun i => f i * e k i) = f k.
Proof.
  assert (zero : forall m, (m <= k)%nat -> sum m (fun i => f i * e k i) = 0).
  { induction m; simpl; intros; [easy|]. rewrite IHm by lia. unfold e. destruct Nat.eq_dec; [lia|ring]. }
  induction n; simpl; intros k_n; [lia|].
  destruct (Nat.eq_dec k n) as [->|]; [rewrite zero|rewrite IHn]; try lia; unfold e;
    destruct Nat.eq_dec; try lia; ring.
Qed.

Lemma two_terms_le_sum n f i k :
  (forall j, (j < n)%nat -> 0 <= f j) -> (i < n)%nat -> (k < n)%nat -> i <> k -> f i + f k <= sum n f.
Proof.
  intros pos i_n k_n i_k.
  replace (sum n f) with (sum n (fun j => f j - f j * e k j) + f k)
    by (rewrite sum_minus, sum_pick by easy; ring).
  assert (f i - f i * e k i <= sum n (fun j => f j - f j * e k j)).
  { apply (term_le_sum n (fun j => f j - f j * e k j)); [|easy].
    intros j j_n. specialize (pos j j_n). unfold e. destruct Nat.eq_dec; lra. }
  unfold e in *. destruct (Nat.eq_dec i k); [easy|lra].
Qed.

Lemma is_derive_sum n (f : nat -> R -> R) df x :
  (forall i, (i < n)%nat -> is_derive (f i) x (df i)) -> is_derive (fun t => sum n (fun i => f i t)) x (sum n df).
Proof.
  induction n; simpl; intros each; [apply @is_derive_const|].
  apply (is_derive_plus (fun t => sum n (fun i => f i t))); auto.
Qed.

(* Shows that a sum equals a combination of sums: constants go inside, then term by term. *)
Ltac combine :=
  repeat (rewrite <- sum_scal || rewrite <- sum_plus || rewrite <- sum_minus); apply sum_ext; intros; ring.

Lemma sum_square_gap n w v m : sum n (fun i => w i * (v i - m) ^ 2) =
  sum n (fun i => w i * v i ^ 2) - 2 * m * sum n (fun i => w i * v i) + m ^ 2 * sum n w.
Proof. combine. Qed.
