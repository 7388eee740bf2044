(* How the entropy of a softmax policy answers a change of its logits: what is proven for every finite vocabulary.
   The names are the paper's (arXiv 2602.03392), "theory" is src/entropy_dynamics/theory.py. Tokens are 0, ..., V - 1,
   logits z are real numbers (none is -inf), logarithms are natural. Statements are marked Theorem, steps Lemma. *)

From Coq Require Import Reals Lra Lia FunctionalExtensionality.
From Coquelicot Require Import Coquelicot.
Require Import Sums.
Open Scope R_scope.

Lemma ln_below_tangent x y : 0 < x -> 0 < y -> x * (ln y - ln x) <= y - x.
Proof.
  intros x_pos y_pos. assert (pos : 0 < y / x) by now apply Rdiv_lt_0_compat.
  assert (tangent := exp_ineq1_le (ln (y / x))). rewrite exp_ln, ln_div in tangent by easy.
  replace (y - x) with (x * (y / x - 1)) by (field; lra). nra.
Qed.

Lemma ln_order x y : 0 < x -> 0 < y -> 0 <= (x - y) * (ln x - ln y) /\ ((x - y) * (ln x - ln y) = 0 -> x = y).
Proof.
  intros. assert (x < y -> ln x < ln y) by now apply ln_increasing.
  assert (y < x -> ln y < ln x) by now apply ln_increasing.
  destruct (Rtotal_order x y) as [|[->|]]; split; intros; nra.
Qed.

Lemma is_derive_product (f g : R -> R) t df dg :
  is_derive f t df -> is_derive g t dg -> is_derive (fun t => f t * g t) t (df * g t + f t * dg).
Proof. intros. apply (is_derive_mult f g); auto using Rmult_comm. Qed.

(* Taylor's formula with a bounded second derivative. *)
Lemma second_order_bound (f df ddf : R -> R) M x :
  (forall t, is_derive f t (df t)) -> (forall t, is_derive df t (ddf t)) -> (forall t, - M <= ddf t <= M) ->
  Rabs (f x - f 0 - x * df 0) <= x ^ 2 * M / 2.
Proof.
  intros df_f ddf_df bounded.
  assert (one_side : forall s, s = 1 \/ s = -1 -> s * (f x - f 0 - x * df 0) <= x ^ 2 * M / 2).
  { intros s sign. set (psi := fun t => s * (f x - f t - (x - t) * df t) - M / 2 * (x - t) ^ 2).
    assert (slope : forall t, is_derive psi t ((x - t) * (M - s * ddf t))).
    { intros. unfold psi. auto_derive; [repeat split; eexists; eauto|].
      rewrite (is_derive_unique (fun t : R => f t) t _ (df_f t)),
        (is_derive_unique (fun t : R => df t) t _ (ddf_df t)). field. }
    destruct (MVT_gen psi 0 x (fun t => (x - t) * (M - s * ddf t))) as [c [between mean]].
    { intros. apply slope. }
    { intros. apply continuity_pt_filterlim, @ex_derive_continuous. eexists. apply slope. }
    assert (0 <= (x - c) * x) by (unfold Rmin, Rmax in between; destruct Rle_dec; nra).
    assert (0 <= M - s * ddf c) by (specialize (bounded c); destruct sign as [-> | ->]; lra).
    assert (0 <= (x - c) * (M - s * ddf c) * (x - 0)) by nra.
    unfold psi in mean. nra. }
  apply Rabs_le. assert (up := one_side 1 (or_introl eq_refl)). assert (down := one_side (-1) (or_intror eq_refl)). lra.
Qed.

Section Policy.
Context (V : nat) (nonempty : (0 < V)%nat).
Notation "'Σ' i , x" := (sum V (fun i => x)) (at level 41, i name, x at level 41).

(* The policy: softmax of the logits. *)
Definition p (z : nat -> R) i := exp (z i) / Σ j, exp (z j).

(* Its entropy, theory.entropy. *)
Definition H z := - Σ i, p z i * ln (p z i).

(* The entropy discriminator, theory.discriminator. *)
Definition S z i := p z i * (H z + ln (p z i)).

(* Mean, variance and covariance over the vocabulary; E z (S z) is theory.expected_discriminator. *)
Definition E z f := Σ i, p z i * f i.
Definition Var z f := E z (fun i => (f i - E z f) ^ 2).
Definition Cov z f g := E z (fun i => f i * g i) - E z f * E z g.

(* The centred discriminator. *)
Definition D z k := S z k - E z (S z).

(* The logits z + t v. *)
Definition move (z : nat -> R) t v i : R := z i + t * v i.

(* The directions of theory.single_logit_update and theory.grpo_logit_update; e k is the unit vector of token k. *)
Definition single_logit := e.
Definition grpo (z : nat -> R) k i := e k i - p z i.

Lemma move_0 z v : move z 0 v = z.
Proof. extensionality i. unfold move. ring. Qed.

Lemma total_pos z : 0 < Σ j, exp (z j).
Proof.
  apply Rlt_le_trans with (exp (z O)); [apply exp_pos|].
  apply (term_le_sum V (fun j => exp (z j))); auto using Rlt_le, exp_pos.
Qed.

Lemma p_pos z i : 0 < p z i.
Proof. apply Rdiv_lt_0_compat; [apply exp_pos|apply total_pos]. Qed.

Lemma sum_p z : Σ i, p z i = 1.
Proof.
  assert (pos := total_pos z). apply Rmult_eq_reg_l with (Σ j, exp (z j)); [|lra].
  rewrite <- sum_scal, Rmult_1_r. apply sum_ext. intros. unfold p. field. lra.
Qed.

Lemma p_le_1 z i : (i < V)%nat -> p z i <= 1.
Proof. rewrite <- (sum_p z). apply term_le_sum. auto using Rlt_le, p_pos. Qed.

Lemma ln_p z i : ln (p z i) = z i - ln (Σ j, exp (z j)).
Proof. unfold p. rewrite ln_div by auto using exp_pos, total_pos. now rewrite ln_exp. Qed.

(* Entropy lies between 0 and log V. *)
Theorem entropy_range z : 0 <= H z <= ln (INR V).
Proof.
  assert (V_pos : 0 < INR V) by now apply lt_0_INR. split.
  - replace (H z) with (-1 * Σ i, p z i * ln (p z i)) by (unfold H; ring). rewrite <- sum_scal.
    apply sum_nonneg. intros i i_V. assert (pos := p_pos z i). assert (le_1 := p_le_1 z i i_V).
    assert (ln (p z i) <= 0) by (rewrite <- ln_1; now apply ln_le). nra.
  - assert (gibbs : Σ i, p z i * (ln (/ INR V) - ln (p z i)) <= Σ i, (/ INR V - p z i)).
    { apply sum_le. intros. apply ln_below_tangent; auto using p_pos, Rinv_0_lt_compat. }
    rewrite sum_minus, sum_const, sum_p, Rinv_r, ln_Rinv in gibbs by lra.
    assert (expand : Σ i, p z i * (- ln (INR V) - ln (p z i)) =
      - ln (INR V) * (Σ i, p z i) - Σ i, p z i * ln (p z i)) by combine.
    rewrite sum_p in expand. unfold H. lra.
Qed.

(* The discriminators of a policy add up to 0. *)
Theorem sum_S z : Σ i, S z i = 0.
Proof.
  transitivity (H z * (Σ i, p z i) + Σ i, p z i * ln (p z i)); [unfold S; combine|].
  rewrite sum_p. unfold H. ring.
Qed.

Lemma is_derive_ln_p z v t i :
  is_derive (fun t => ln (p (move z t v) i)) t (v i - E (move z t v) v).
Proof.
  assert (pos := total_pos (move z t v)).
  apply is_derive_ext with (fun t => move z t v i - ln (Σ j, exp (move z t v j))); [intros; now rewrite ln_p|].
  apply @is_derive_minus; [unfold move; auto_derive; [easy|ring]|].
  replace (E _ _) with ((Σ j, v j * exp (move z t v j)) * / Σ j, exp (move z t v j)).
  - apply (is_derive_comp ln (fun t => Σ j, exp (move z t v j))); [auto_derive; [easy|ring]|].
    apply (is_derive_sum V (fun j t => exp (move z t v j))). intros. unfold move. auto_derive; [easy|ring].
  - rewrite Rmult_comm. unfold E, p, Rdiv. combine.
Qed.

(* Lemma 3.1 for any direction v: the derivative of p_i is p_i (v_i - p . v); theory.probability_change. *)
Theorem probability_change z v t i :
  is_derive (fun t => p (move z t v) i) t (p (move z t v) i * (v i - E (move z t v) v)).
Proof.
  apply is_derive_ext with (fun t => exp (ln (p (move z t v) i))); [intros; apply exp_ln, p_pos|].
  evar_last; [apply (is_derive_comp exp); [apply is_derive_exp|apply is_derive_ln_p]|].
  rewrite exp_ln by apply p_pos. apply Rmult_comm.
Qed.

(* Lemma 3.1: when the logit of k alone moves, p_k changes by p_k (1 - p_k), any other p_i by -p_i p_k. *)
Theorem lemma_3_1 z k i : (k < V)%nat ->
  is_derive (fun eps => p (move z eps (single_logit k)) i) 0
    (if Nat.eq_dec i k then p z k * (1 - p z k) else - p z i * p z k).
Proof.
  intros. evar_last; [apply probability_change|].
  rewrite move_0. unfold E, single_logit. rewrite sum_pick by easy. unfold e. destruct Nat.eq_dec as [->|]; ring.
Qed.

(* The derivative of entropy along any direction v is -S . v, wherever the logits stand; theory.first_order_change. *)
Theorem gradient z v t : is_derive (fun t => H (move z t v)) t (- Σ i, S (move z t v) i * v i).
Proof.
  set (q := move z t v). set (m := E q v).
  replace (Σ i, S q i * v i)
    with (Σ i, (p q i * (v i - m) * ln (p q i) + p q i * (v i - m))).
  - apply @is_derive_opp.
    apply (is_derive_sum V (fun i t => p (move z t v) i * ln (p (move z t v) i))). intros.
    exact (is_derive_product _ _ _ _ _ (probability_change z v t i) (is_derive_ln_p z v t i)).
  - transitivity ((Σ i, p q i * ln (p q i) * v i) - m * (Σ i, p q i * ln (p q i)) + E q v - m * Σ i, p q i).
    { unfold E. combine. }
    transitivity (H q * E q v + Σ i, p q i * ln (p q i) * v i).
    { rewrite sum_p. unfold H, m. ring. }
    unfold S, E. combine.
Qed.

(* The same as a covariance, theory.covariance_change. *)
Theorem covariance_form z v : Σ i, S z i * v i = Cov z (fun i => ln (p z i)) v.
Proof.
  transitivity (H z * E z v + Σ i, p z i * (ln (p z i) * v i)); [unfold S, E; combine|].
  unfold Cov, E, H. ring.
Qed.

(* Theorem 3.2: entropy changes by -S_k when the logit of k alone moves. *)
Theorem theorem_3_2 z k : (k < V)%nat -> is_derive (fun eps => H (move z eps (single_logit k))) 0 (- S z k).
Proof. intros. evar_last; [apply gradient|]. unfold single_logit. now rewrite move_0, sum_pick. Qed.

Lemma S_dot_grpo z k : (k < V)%nat -> Σ i, S z i * grpo z k i = D z k.
Proof. intros. unfold D. rewrite <- (sum_pick V (S z) k) by easy. unfold grpo, E. combine. Qed.

(* Theorem 3.3: entropy changes by -(S_k - E_p[S]) under a GRPO step on k. *)
Theorem theorem_3_3 z k : (k < V)%nat -> is_derive (fun alpha => H (move z alpha (grpo z k))) 0 (- D z k).
Proof. intros. evar_last; [apply gradient|]. now rewrite move_0, S_dot_grpo. Qed.

(* Deviations from the mean have mean 0, whatever the function: the zero of Corollary 3.4 is no property of S. *)
Theorem centred_mean z f : Σ k, p z k * (f k - E z f) = 0.
Proof.
  transitivity ((Σ k, p z k * f k) - E z f * Σ k, p z k); [combine|rewrite sum_p; unfold E; ring].
Qed.

(* Corollary 3.4: the centred discriminator has mean 0. *)
Theorem corollary_3_4 z : Σ k, p z k * D z k = 0.
Proof. apply centred_mean. Qed.

(* An entropy bonus moves the logits along -S, and entropy rises by the sum of S^2; theory.entropy_bonus_change. *)
Theorem entropy_bonus z : is_derive (fun beta => H (move z beta (fun i => - S z i))) 0 (Σ i, S z i ^ 2).
Proof.
  evar_last; [apply gradient|]. rewrite move_0. transitivity (-1 * Σ i, S z i * - S z i); [ring|combine].
Qed.

(* The sign rule: S_k > 0 exactly where p_k exceeds e^{-H}, theory.sign_boundary. *)
Theorem sign_rule z k :
  (0 < S z k <-> exp (- H z) < p z k) /\
  (S z k < 0 <-> p z k < exp (- H z)) /\
  (S z k = 0 <-> p z k = exp (- H z)).
Proof.
  assert (pos := p_pos z k).
  unfold S. destruct (Rtotal_order (exp (- H z)) (p z k)) as [lt|[eq|gt]].
  - assert (ln (exp (- H z)) < ln (p z k)) by (apply ln_increasing; auto using exp_pos). rewrite ln_exp in *.
    repeat split; nra.
  - rewrite <- eq, ln_exp. repeat split; nra.
  - assert (ln (p z k) < ln (exp (- H z))) by now apply ln_increasing. rewrite ln_exp in *.
    repeat split; nra.
Qed.

(* S is at least -e^{-1-H}, theory.lowest_discriminator. *)
Theorem lowest_discriminator z i : - exp (-1 - H z) <= S z i.
Proof.
  assert (tangent := ln_below_tangent (p z i) (exp (-1 - H z)) (p_pos z i) (exp_pos _)).
  rewrite ln_exp in tangent. unfold S. nra.
Qed.

(* The baseline is a covariance, *)
Theorem baseline_is_covariance z : E z (S z) = Cov z (p z) (fun i => ln (p z i)).
Proof.
  transitivity (H z * E z (p z) + Σ i, p z i * (p z i * ln (p z i))); [unfold S, E; combine|].
  unfold Cov, E, H. ring.
Qed.

Lemma sum_square_p_pos z : 0 < E z (p z).
Proof.
  apply Rlt_le_trans with (p z O * p z O); [apply Rmult_lt_0_compat; apply p_pos|].
  apply (term_le_sum V (fun i => p z i * p z i)); [intros; apply Rmult_le_pos|]; auto using Rlt_le, p_pos.
Qed.

Lemma baseline_terms z (m := E z (p z)) :
  E z (S z) = Σ i, p z i * ((p z i - m) * (ln (p z i) - ln m)).
Proof.
  assert (expand : forall c d, Σ i, p z i * ((p z i - c) * (ln (p z i) - d)) =
    (Σ i, p z i * (p z i * ln (p z i))) - c * (Σ i, p z i * ln (p z i)) - d * (Σ i, p z i * p z i)
    + c * d * Σ i, p z i) by (intros; combine).
  rewrite expand, sum_p, baseline_is_covariance. unfold Cov, m, E. ring.
Qed.

(* never negative, *)
Theorem baseline_nonneg z : 0 <= E z (S z).
Proof.
  rewrite baseline_terms. apply sum_nonneg. intros.
  apply Rmult_le_pos, ln_order; auto using Rlt_le, p_pos, sum_square_p_pos.
Qed.

(* and 0 for the uniform policy alone. *)
Theorem baseline_zero z : E z (S z) = 0 <-> forall i, (i < V)%nat -> p z i = / INR V.
Proof.
  assert (V_pos : 0 < INR V) by now apply lt_0_INR.
  rewrite baseline_terms. set (m := E z (p z)). assert (m_pos : 0 < m) by apply sum_square_p_pos. split.
  - intros zero. assert (same : forall i, (i < V)%nat -> p z i = m).
    { intros i i_V. assert (pos := p_pos z i). destruct (ln_order (p z i) m) as [nonneg equal]; try easy.
      assert (p z i * ((p z i - m) * (ln (p z i) - ln m)) <= 0); [|apply equal; nra].
      rewrite <- zero. apply (term_le_sum V (fun i => p z i * ((p z i - m) * (ln (p z i) - ln m)))); [|easy].
      intros. apply Rmult_le_pos, ln_order; auto using Rlt_le, p_pos. }
    intros i i_V. rewrite same by easy. apply Rmult_eq_reg_l with (INR V); [|lra].
    rewrite Rinv_r, <- sum_const, <- (sum_p z) by lra. symmetry. now apply sum_ext.
  - intros uniform. assert (m = / INR V) as ->.
    { unfold m, E. rewrite sum_ext with (g := fun i => / INR V * p z i) by (intros; now rewrite uniform).
      rewrite sum_scal, sum_p. ring. }
    rewrite sum_ext with (g := fun _ => 0) by (intros; rewrite uniform by easy; ring). rewrite sum_const. ring.
Qed.

(* The entropy change between any two policies, nothing neglected; the last sum is KL(p' || p). theory.exact_change. *)
Theorem exact_change z z' : H z' - H z =
  - (Σ i, (p z' i - p z i) * (ln (p z i) + H z)) - Σ i, p z' i * (ln (p z' i) - ln (p z i)).
Proof.
  assert (expand : forall h, Σ i, (p z' i - p z i) * (ln (p z i) + h) = (Σ i, p z' i * ln (p z i))
    - (Σ i, p z i * ln (p z i)) + h * ((Σ i, p z' i) - Σ i, p z i)) by (intros; combine).
  rewrite expand, !sum_p. unfold H.
  transitivity ((Σ i, p z i * ln (p z i)) - Σ i, p z' i * ln (p z' i)); [ring|].
  transitivity ((Σ i, p z i * ln (p z i)) - (Σ i, p z' i * ln (p z i))
    - Σ i, p z' i * (ln (p z' i) - ln (p z i))); [combine|ring].
Qed.

Lemma is_derive_S z v t i (q := move z t v) :
  is_derive (fun t => S (move z t v) i) t
    ((S q i + p q i) * (v i - E q v) - p q i * Σ j, S q j * v j).
Proof.
  evar_last.
  - apply is_derive_product; [apply probability_change|].
    apply @is_derive_plus; [apply gradient|apply is_derive_ln_p].
  - unfold plus; simpl. fold q. generalize (Σ j, S q j * v j). intros. unfold S. ring.
Qed.

Lemma is_derive_slope z v t (q := move z t v) :
  is_derive (fun t => - Σ i, S (move z t v) i * v i) t (- Var q v - Σ i, S q i * (v i - E q v) ^ 2).
Proof.
  assert (expand : forall s w m G, Σ i, ((s i + w i) * (v i - m) - w i * G) * v i =
    (Σ i, w i * (v i - m) ^ 2) + (Σ i, s i * (v i - m) ^ 2) + m * (Σ i, s i * v i) - m ^ 2 * (Σ i, s i)
    + (m - G) * (Σ i, w i * v i) - m ^ 2 * Σ i, w i) by (intros; combine).
  evar_last.
  - apply @is_derive_opp, (is_derive_sum V (fun i t => S (move z t v) i * v i)). intros.
    apply is_derive_product; [apply is_derive_S|apply @is_derive_const].
  - fold q. rewrite sum_ext with (g := fun i => ((S q i + p q i) * (v i - E q v) - p q i * Σ j, S q j * v j) * v i)
      by (unfold zero; simpl; intros; ring).
    rewrite expand, sum_S, sum_p. unfold opp, Var, E; simpl. ring.
Qed.

(* The second derivative of entropy along v is -Var(v) - sum_i S_i (v_i - E[v])^2, *)
Theorem curvature z v t (q := move z t v) :
  is_derive_n (fun t => H (move z t v)) 2 t (- Var q v - Σ i, S q i * (v i - E q v) ^ 2).
Proof.
  apply is_derive_ext with (2 := is_derive_slope z v t).
  intros. symmetry. apply is_derive_unique, gradient.
Qed.

Lemma Var_moments z v : Var z v = E z (fun i => v i ^ 2) - E z v ^ 2.
Proof. unfold Var, E. rewrite sum_square_gap, sum_p. ring. Qed.

(* the same in other terms; theory.second_order_change is half of it. *)
Theorem curvature_moments z v :
  - Var z v - Σ i, S z i * (v i - E z v) ^ 2 =
  - (Σ i, (S z i + p z i) * v i ^ 2) + 2 * E z v * (Σ i, S z i * v i) + E z v ^ 2.
Proof.
  assert (both : Σ i, (S z i + p z i) * v i ^ 2 = (Σ i, S z i * v i ^ 2) + Σ i, p z i * v i ^ 2) by combine.
  rewrite Var_moments, sum_square_gap, sum_S, both. unfold E. ring.
Qed.

Lemma largest_mass a L : 0 <= a <= 1 -> 0 <= L -> a * (1 - a) * (L + ln a - ln (1 - a)) <= (1 + L) / 4.
Proof.
  intros [a_nonneg a_le_1] L_nonneg.
  assert (quarter : a * (1 - a) <= 1 / 4) by (assert (0 <= (1 - 2 * a) ^ 2) by apply pow2_ge_0; nra).
  assert (ln 4 <= 3 / 2).
  { assert (power : exp (3 / 2) = exp (/ 8) ^ 12).
    { rewrite <- Rpower_pow by apply exp_pos. unfold Rpower. rewrite ln_exp. f_equal. simpl. field. }
    rewrite <- (ln_exp (3 / 2)), power. apply ln_le; [lra|].
    apply Rle_trans with ((1 + / 8) ^ 12); [simpl; lra|apply pow_incr]. split; [lra|apply exp_ineq1_le]. }
  assert (a * (1 - a) * (ln a - ln (1 - a)) <= 1 / 4); [|nra].
  destruct (Req_dec a 0) as [->|]; [lra|]. destruct (Req_dec a 1) as [->|]; [lra|].
  assert (tangent : 4 * (1 - a) * (ln a - ln (4 * (1 - a))) <= a - 4 * (1 - a)) by (apply ln_below_tangent; lra).
  rewrite ln_mult in tangent by lra.
  assert (a * (4 * (1 - a) * (ln a - (ln 4 + ln (1 - a)))) <= a * (a - 4 * (1 - a)))
    by (apply Rmult_le_compat_l; lra).
  assert (0 <= a * (1 - a) * (3 / 2 - ln 4)) by (apply Rmult_le_pos; nra). nra.
Qed.

Definition positive x := if Rlt_dec 0 x then 1 else 0.

Lemma some_positive n f : (exists i, (i < n)%nat /\ 0 < f i) \/ forall i, (i < n)%nat -> f i <= 0.
Proof.
  induction n as [|n [[i [i_n pos]]|none]].
  - right. lia.
  - left. exists i. auto with arith.
  - destruct (Rlt_dec 0 (f n)); [left; exists n; auto with arith|right].
    intros i i_n. destruct (Nat.eq_dec i n) as [->|]; [lra|]. apply none. lia.
Qed.

(* With L = log(V - 1) and a = the mass of the tokens with S > 0, the sum of the positive S_i is at most
   a (1 - a) (L + log a - log (1 - a)): those tokens have log p_i <= log a, and the entropy of at most V - 1 others
   is at most L. *)
Lemma positive_part z : (2 <= V)%nat -> Σ i, positive (S z i) * S z i <= (1 + ln (INR V - 1)) / 4.
Proof.
  intros V_2. assert (N_1 : 1 <= INR V - 1) by (apply le_INR in V_2; simpl in V_2; lra).
  set (N := INR V - 1) in *. set (L := ln N).
  assert (L_nonneg : 0 <= L) by (unfold L; rewrite <- ln_1; apply ln_le; lra).
  set (chi := fun i => positive (S z i)).
  assert (chi_01 : forall i, chi i = 0 \/ chi i = 1) by (intros; unfold chi, positive; destruct Rlt_dec; auto).
  set (a := Σ i, chi i * p z i). set (X := Σ i, chi i * (p z i * ln (p z i))).
  assert (b_eq : Σ i, (1 - chi i) * p z i = 1 - a).
  { transitivity ((Σ i, p z i) - a); [unfold a; combine|now rewrite sum_p]. }
  assert (Y_eq : Σ i, (1 - chi i) * (p z i * ln (p z i)) = - H z - X).
  { transitivity ((Σ i, p z i * ln (p z i)) - X); [unfold X; combine|unfold H; ring]. }
  assert (inside : forall i, (i < V)%nat -> 0 <= chi i * p z i /\ 0 <= (1 - chi i) * p z i).
  { intros i _. assert (pos := p_pos z i). destruct (chi_01 i) as [-> | ->]; lra. }
  assert (0 <= a) by (apply sum_nonneg; apply inside).
  assert (0 <= 1 - a) by (rewrite <- b_eq; apply sum_nonneg; apply inside).
  assert (split : Σ i, chi i * S z i = H z * a + X) by (unfold a, X, S; combine).
  change (Σ i, chi i * S z i <= (1 + L) / 4).
  assert (X_up : X <= a * ln a).
  { apply Rle_trans with (Σ i, ln a * (chi i * p z i)); [|rewrite sum_scal; fold a; lra].
    apply sum_le. intros i i_V. assert (pos := p_pos z i).
    assert (chi i * p z i <= a) by (apply (term_le_sum V (fun i => chi i * p z i)); [apply inside|easy]).
    destruct (chi_01 i) as [zero|one]; [rewrite zero; lra|rewrite one in *].
    assert (ln (p z i) <= ln a) by (apply ln_le; lra). nra. }
  destruct (some_positive V (S z)) as [[k [k_V S_k]]|none].
  - assert (chi_k : chi k = 1) by (unfold chi, positive; destruct Rlt_dec; lra).
    assert (others : Σ i, (1 - chi i) <= N).
    { rewrite (sum_minus V _ (fun i => chi i)), sum_const. assert (chi k <= Σ i, chi i).
      { apply term_le_sum; [|easy]. intros i _. destruct (chi_01 i); lra. }
      unfold N. lra. }
    assert (Y_up : (1 - a) * (ln (1 - a) - L) + H z + X <= 0).
    { assert (rest : Σ i, (1 - chi i) * (p z i * (ln (1 - a) - L - ln (p z i))) =
        (1 - a) * (ln (1 - a) - L) + H z + X).
      { transitivity ((ln (1 - a) - L) * (Σ i, (1 - chi i) * p z i) - Σ i, (1 - chi i) * (p z i * ln (p z i)));
          [combine|rewrite b_eq, Y_eq; ring]. }
      rewrite <- rest.
      apply Rle_trans with (Σ i, (1 - chi i) * ((1 - a) / N - p z i)).
      - apply sum_le. intros i i_V. assert (pos := p_pos z i).
        destruct (chi_01 i) as [zero|one]; [|rewrite one; lra].
        assert ((1 - chi i) * p z i <= 1 - a).
        { rewrite <- b_eq. apply (term_le_sum V (fun i => (1 - chi i) * p z i)); [apply inside|easy]. }
        rewrite zero in *. assert (0 < (1 - a) / N) by (apply Rdiv_lt_0_compat; lra).
        assert (tangent := ln_below_tangent (p z i) ((1 - a) / N) ltac:(easy) ltac:(easy)).
        rewrite ln_div in tangent by lra.
        unfold L. lra.
      - apply Rle_trans with ((1 - a) / N * (Σ i, (1 - chi i)) - Σ i, (1 - chi i) * p z i); [right; combine|].
        rewrite b_eq. assert (0 <= (1 - a) / N) by (apply Rdiv_le_0_compat; lra).
        apply Rle_trans with ((1 - a) / N * N - (1 - a)); [nra|]. right. field. lra. }
    assert (largest : a * (1 - a) * (L + ln a - ln (1 - a)) <= (1 + L) / 4) by (apply largest_mass; lra).
    rewrite split. nra.
  - rewrite sum_ext with (g := fun _ => 0); [rewrite sum_const; lra|].
    intros i i_V. unfold chi, positive. specialize (none i i_V). destruct Rlt_dec; lra.
Qed.

Lemma mean_within z v lo hi : (forall i, (i < V)%nat -> lo <= v i <= hi) -> lo <= E z v <= hi.
Proof.
  intros within.
  assert (constant : forall c, Σ i, p z i * c = c).
  { intros. transitivity (c * Σ i, p z i); [combine|rewrite sum_p; ring]. }
  rewrite <- (constant lo), <- (constant hi) at 1.
  split; apply sum_le; intros i i_V; apply Rmult_le_compat_l; auto using Rlt_le, p_pos; apply within; easy.
Qed.

Lemma Var_bound z v lo hi : (forall i, (i < V)%nat -> lo <= v i <= hi) -> 0 <= Var z v <= (hi - lo) ^ 2 / 4.
Proof.
  intros within. split.
  { apply sum_nonneg. intros. apply Rmult_le_pos; auto using Rlt_le, p_pos, pow2_ge_0. }
  assert (0 <= Σ i, p z i * ((v i - lo) * (hi - v i))).
  { apply sum_nonneg. intros i i_V. specialize (within i i_V). assert (pos := p_pos z i).
    apply Rmult_le_pos, Rmult_le_pos; lra. }
  assert (expand : Σ i, p z i * ((v i - lo) * (hi - v i)) =
    (lo + hi) * (Σ i, p z i * v i) - (Σ i, p z i * v i ^ 2) - lo * hi * Σ i, p z i) by combine.
  rewrite sum_p in expand. rewrite Var_moments. unfold E.
  assert (0 <= (2 * (Σ i, p z i * v i) - lo - hi) ^ 2) by apply pow2_ge_0. nra.
Qed.

Lemma weighted_S z w r : (2 <= V)%nat -> (forall i, (i < V)%nat -> 0 <= w i <= r) ->
  Rabs (Σ i, S z i * w i) <= r * ((1 + ln (INR V - 1)) / 4).
Proof.
  intros V_2.
  assert (above : forall w, (forall i, (i < V)%nat -> 0 <= w i <= r) ->
    Σ i, S z i * w i <= r * ((1 + ln (INR V - 1)) / 4)).
  { intros u within. assert (0 <= r) by (specialize (within O nonempty); lra).
    apply Rle_trans with (Σ i, r * (positive (S z i) * S z i)).
    - apply sum_le. intros i i_V. specialize (within i i_V). unfold positive. destruct Rlt_dec; nra.
    - rewrite sum_scal. apply Rmult_le_compat_l; [easy|now apply positive_part]. }
  intros within. apply Rabs_le. split; [|now apply above].
  assert (flip : Σ i, S z i * (r - w i) = r * (Σ i, S z i) - Σ i, S z i * w i) by combine.
  rewrite sum_S in flip.
  assert (Σ i, S z i * (r - w i) <= r * ((1 + ln (INR V - 1)) / 4)); [|lra].
  apply above. intros i i_V. specialize (within i i_V). lra.
Qed.

(* What the first order neglects, for every step alpha along every direction with components from lo to hi. *)
Theorem remainder_bound z v lo hi alpha : (2 <= V)%nat -> (forall i, (i < V)%nat -> lo <= v i <= hi) ->
  Rabs (H (move z alpha v) - (H z - alpha * Σ i, S z i * v i))
    <= alpha ^ 2 * (hi - lo) ^ 2 * (1 / 4 + ln (INR V - 1) / 8).
Proof.
  intros V_2 within.
  set (M := (hi - lo) ^ 2 * (1 / 2 + ln (INR V - 1) / 4)).
  replace (_ * (1 / 4 + _)) with (alpha ^ 2 * M / 2) by (unfold M; field).
  replace (H _ - _) with (H (move z alpha v) - H (move z 0 v) - alpha * - Σ i, S (move z 0 v) i * v i)
    by (rewrite move_0; ring).
  apply (second_order_bound _ _ _ M alpha (gradient z v) (is_derive_slope z v)).
  intros. set (q := move z t v). assert (variance := Var_bound q v lo hi within).
  assert (mean := mean_within q v lo hi within).
  assert (moved := weighted_S q (fun i => (v i - E q v) ^ 2) ((hi - lo) ^ 2) V_2).
  apply Rabs_le_between in moved; [unfold M; lra|].
  intros i i_V. specialize (within i i_V). split; [apply pow2_ge_0|nra].
Qed.

(* Theorem 3.2 with its remainder bounded, *)
Theorem single_logit_remainder_bound z k eps : (2 <= V)%nat -> (k < V)%nat ->
  Rabs (H (move z eps (single_logit k)) - (H z - eps * S z k)) <= eps ^ 2 * (1 / 4 + ln (INR V - 1) / 8).
Proof.
  intros V_2 k_V. rewrite <- (sum_pick V (S z) k) by easy.
  replace (eps ^ 2) with (eps ^ 2 * (1 - 0) ^ 2) by ring. apply remainder_bound; [easy|].
  intros i _. unfold single_logit, e. destruct Nat.eq_dec; lra.
Qed.

(* and Theorem 3.3. *)
Theorem grpo_remainder_bound z k alpha : (2 <= V)%nat -> (k < V)%nat ->
  Rabs (H (move z alpha (grpo z k)) - (H z - alpha * D z k))
    <= alpha ^ 2 * (1 - p z k) ^ 2 * (1 + ln (INR V - 1) / 2).
Proof.
  intros V_2 k_V. rewrite <- S_dot_grpo by easy.
  replace (_ * (1 + _))
    with (alpha ^ 2 * (1 - p z k - (p z k - 1)) ^ 2 * (1 / 4 + ln (INR V - 1) / 8)) by field.
  apply remainder_bound; [easy|].
  intros i i_V. assert (pos := p_pos z i). assert (k_1 := p_le_1 z k k_V). unfold grpo, e.
  destruct (Nat.eq_dec i k) as [->|i_k]; [lra|].
  assert (p z i + p z k <= Σ j, p z j) by (apply two_terms_le_sum; auto using Rlt_le, p_pos).
  rewrite sum_p in *. lra.
Qed.
End Policy.
