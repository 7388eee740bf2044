from companion.runs import comparisons
from companion.runs.records import run_all
from companion.runs.store import Store
if __name__ == "__main__":
    runs = comparisons.named(comparisons.network())
    run_all(list(runs.values()), Store("/work/scratch/netstore", "/work/train/data/runs"), jobs=2, minutes=float("inf"))
