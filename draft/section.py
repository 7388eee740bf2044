"""Insert the section on batch, width and depth into notebook 04, behind section 10."""
import json

PATH = "notebooks/04_beyond_first_order.ipynb"
TEXT = r'''## 11. In a smaller batch, a wider or a deeper network?

Is a state's own token outweighed because the network is small? Or because the batch is large? Policies of seven sizes (1 to 6 layers, width 24 to 192), five seeds each, every one from a warm start of its own, take a batch of 256 problems; parts of it are smaller batches of 4 to 128.
For 48 updated states of each policy the contributions $h(s, t)$ of all tokens $t$ to the first-order change of state $s$ are computed, and the *own share* in three ways, averaged over states:

* *net*: $|h(s, s)|$ in the sum of the absolute values of section 10's four parts;
* *absolute*: $|h(s, s)| \,/\, \sum_t |h(s, t)|$, in which nothing cancels;
* *squared*: $h(s, s)^2 \,/\, \sum_t h(s, t)^2$.

Two laws were written down before the runs. The own problem's contributions do not depend on the number $P$ of problems. If those of the others add up, as absolute values and squares do, the share is $1/(a + b(P - 1))$; if they have independent signs, $1/(a + b\sqrt{P - 1})$. What was expected of the exponents (the slope of log share against log
size) stands in `data/network_predictions.toml`. Width and depth are compared at 1,000 tokens with an advantage, since small policies get fewer problems right, and so have fewer such tokens in as many problems.'''
LOAD = r'''made = comparisons.records_of(comparisons.network(seeds=config.network_seeds), records, **budget)
by_size = share_laws.shares_table(share_laws.states_table(made))
print_table(
    share_laws.policies_table(made),
    {
        "parameters": "of the policy, layers x width",
        "reward": "share of right responses in its batch, mean over seeds",
        "entropy": "mean over the batch's states, nats",
    },
)
points = share_laws.by_factor(by_size, share_laws.at_tokens(by_size, 1000))
slopes = {factor: share_laws.exponents(some) for factor, some in points.items()}
against = share_laws.against_predictions(slopes)
print("exponents, mean over seeds with its 95 % interval, beside the range that was expected")
print(against.drop(columns="seeds").round(2).to_string(index=False))'''
FIGURE = r'''laws = {"net": "others at random", "absolute": "others alike", "squared": "others alike"}
power = dict.fromkeys(laws, "power law")
shown = {
    "problems in the batch": share_laws.drawn(points["batch"], laws),
    "width, at 1,000 tokens": share_laws.drawn(points["width"], power),
    "layers, at 1,000 tokens": share_laws.drawn(points["depth"], power),
}
save_figure(
    reach_figures.own_shares(shown),
    "own_shares",
    pd.concat(shown, names=["factor"]).reset_index(level=0),
    title="The own token's share of what moves a state, three ways of measuring it: geometric means of five seeds with 95 % intervals. Lines are fitted without the largest size (hollow): above the laws of the text, below power laws.",
    alt=ALT,
    directory=config.output_dir,
)'''
CLAIMS = r'''errors = share_laws.held_out(points["batch"], list(share_laws.LAWS))
print_table(
    errors.pivot(index="law", columns="share", values="error")[list(laws)],
    {name: "root mean square over seeds of log(predicted / measured) at 256 problems, fitted without them" for name in ("net",)},
)
local = share_laws.local_exponents(points["batch"])
assert_claim("own-share-batch", *share_laws.falls_by_law(slopes["batch"], errors, laws))
assert_claim("own-share-bends", *share_laws.steepens(local, ["absolute", "squared"]))
assert_claim("own-share-size", *share_laws.weaker(slopes, "batch", list(laws)))'''
