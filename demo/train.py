"""Trains a small classifier on scikit-learn's digits and writes its metrics per epoch to $ORC_METRICS_FILE."""

import argparse
import json
import os
import warnings
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def main() -> None:
    """One configuration, from its options to its last epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    train_x, val_x, train_y, val_y = train_test_split(
        images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels
    )
    model = MLPClassifier((options.hidden,), solver="sgd", learning_rate_init=options.lr, batch_size=32, random_state=0)
    metrics = Path(os.environ.get("ORC_METRICS_FILE", "/dev/stdout"))
    with metrics.open("a", buffering=1) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(1, options.epochs + 1):
            model.partial_fit(train_x, train_y, classes=range(10))
            row = {
                "epoch": epoch,
                "loss": log_loss(train_y, model.predict_proba(train_x)),
                "val_loss": log_loss(val_y, model.predict_proba(val_x)),
                "val_acc": float(model.score(val_x, val_y)),
            }
            file.write(json.dumps(row) + "\n")
            print(f"epoch {epoch:2d}  loss {row['loss']:.4f}  val_acc {row['val_acc']:.4f}", flush=True)


if __name__ == "__main__":
    main()
