"""Rows of benchmarks/quality.py: a name and options of jobs/train.py for each."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
# Settings for long histories; the default configuration is for all else. The ablation is of one model of half the
# width, for its minutes, and so of the default's rate and dropout.
ML1M = ["--config", str(ROOT / "jobs" / "configs" / "ml1m.yaml")]
# One model of it, for as many epochs as the time allows.
ML1M_BUDGET = [*ML1M, "--model.members", "1", "--train.epochs", "2000", "--train.validate_every_epochs", "10"]
LONG = [*ML1M_BUDGET, "--model.width", "64", "--model.dropout", "auto", "--train.learning_rate", "4e-3"]
# name -> options over LONG's; rows whose names begin so answer whether several granularities beat one
ONE, SEVERAL = "one granularity: ", "granularities: "
WIDER = ["--model.depth", "2", "--model.feedforward", "4"]
ROWS: dict[str, list[str]] = {
    SEVERAL + "1, decay (default)": [],
    ONE + "1": ["--model.granularities", "[1]"],
    ONE + "decay": ["--model.granularities", "['decay:1..400']"],
    ONE + "1, two blocks": ["--model.granularities", "[1]", "--model.depth", "2"],
    # With the body's parameters, within 1%, that the default has.
    ONE + "1, two wider blocks": ["--model.granularities", "[1]", *WIDER],
    ONE + "decay, two wider blocks": ["--model.granularities", "['decay:1..400']", *WIDER],
    SEVERAL + "1, 4, decay": ["--model.granularities", "[1,4,'decay:4..400']"],
    SEVERAL + "1, 4": ["--model.granularities", "[1,4]"],
    SEVERAL + "1, 4, 16": ["--model.granularities", "[1,4,16]"],
    SEVERAL + "1, 4, 16, decay": ["--model.granularities", "[1,4,16,'decay:4..400']"],
    "fusion: sum": ["--model.fusion", "sum"],
    "fusion: concat": ["--model.fusion", "concat"],
    "fusion: gate": ["--model.fusion", "gate"],
    "dense convolution: 1, 4, 16": ["--model.granularities", "[1,4,16]", "--model.conv", "dense"],
    "pooling learned: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "learned"],
    "pooling max: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "max"],
    "pooling decay: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "decay"],
    "attention of one head": ["--model.heads", "1"],
    "batch normalization": ["--model.norm", "batch"],
    "items start at random": ["--train.item_init", "random"],
    "no feed-forward": ["--model.feedforward", "0"],
    "members: 2": ["--model.members", "2"],
    "members: 4, of half the width": ["--model.members", "4", "--model.width", "32"],
    "windows of 200": ["--train.max_length", "200"],
    "constant learning rate": ["--train.decay_share", "0"],
    "512 negatives": ["--train.num_negatives", "512"],
    "full softmax": ["--train.loss", "softmax"],
    "gBCE": ["--train.loss", "gbce"],
    "label smoothing": ["--train.label_smoothing", "0.1"],  # which makes negatives of seen items too
    "seen items are negatives": ["--train.exclude_seen", "false"],
    "hard negatives": ["--train.hard_negatives", "0.25"],
    "in-batch negatives": ["--train.in_batch_negatives", "true"],
    "popular negatives": ["--train.popular_negatives", "512"],
    "weight average": ["--train.ema_decay", "0.999"],
    "granularity dropout": ["--model.level_dropout", "0.3"],
    "kernel of 3": ["--model.kernel", "3"],
    "kernel of 15": ["--model.kernel", "15"],
    "two blocks a level": ["--model.depth", "2"],
    # LONG is the default but for these; they too have the ablation's minutes here, and not their own.
    "jobs/train.py's defaults": [
        *("--train.epochs", "40", "--train.validate_every_epochs", "3", "--train.decay_share", "0.5"),
        *("--train.max_length", "1024", "--train.global_batch_events", "auto", "--train.precision", "auto"),
    ],
    "augmentation: crop": ["--train.augment_crop", "0.3"],
    "augmentation: reorder": ["--train.augment_reorder", "0.3"],
    "augmentation: drop": ["--train.augment_drop", "0.1"],
    "augmentation: mask": ["--train.augment_mask", "0.1"],
}
# What else a log may tell, and what else is predicted: on MovieLens-100K, under the default configuration.
INPUT_ROWS: dict[str, list[str]] = {
    "items alone (default)": [],
    "time gaps": ["--model.inputs", "[time_gap]"],
    "hour and weekday": ["--model.inputs", "[hour,weekday]"],
    "ratings": ["--model.inputs", "[rating]"],
    "all that the log has": ["--model.inputs", "auto"],
    "granularities: 1, session:30m, decay": ["--model.granularities", "[1,'session:30m','decay:1..400']"],
    "granularities: 1, 1d, decay": ["--model.granularities", "[1,1d,'decay:1..400']"],
    "granularities: 1, session:30m, 7d": ["--model.granularities", "[1,'session:30m',7d]"],
    "outputs: both": ["--model.outputs", "both"],
    "outputs: rating": ["--model.outputs", "rating"],
}
CUT = (SEVERAL + "1, decay (default)", "granularity dropout")  # rows whose model is also cut to fewer levels
