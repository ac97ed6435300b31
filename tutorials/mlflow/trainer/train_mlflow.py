"""Fits a line, and logs each step to MLflow itself."""

import argparse
import random

import mlflow


def main() -> None:
    """Fits the slope of a line, and logs each step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float, default=0.1, help="Size of a step.")
    arguments = parser.parse_args()

    source = random.Random(0)
    points = [(x, 2 * x + source.gauss(0, 0.1)) for x in (source.uniform(-1, 1) for _ in range(99))]
    weight = 0.0
    # Server, experiment and run are in the environment.
    with mlflow.start_run():
        for step in range(20):
            slope = sum((weight * x - y) * x for x, y in points) / len(points)
            weight -= arguments.learning_rate * slope
            mlflow.log_metric("weight", weight, step=step)


if __name__ == "__main__":
    main()
