"""Trains a small neural network to read handwritten digits."""

import json

import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FLAGS = flags.FLAGS

flags.DEFINE_float("learning_rate", 1.0, "Step size of gradient descent.", lower_bound=0.0)
flags.DEFINE_integer("epochs", 10, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Images in one step.", lower_bound=1)
flags.DEFINE_integer("hidden", 64, "Units of the hidden layer.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of all randomness: the split, the weights, the order.")


def main(_):
    """Trains, printing a line for each epoch, and tests on images that were held back."""
    # 1797 images of 8 x 8 pixels, from 0 (white) to 16; they come with scikit-learn.
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16, digits, test_size=0.25, stratify=digits, random_state=FLAGS.seed
    )
    model = MLPClassifier(
        hidden_layer_sizes=(FLAGS.hidden,),
        solver="sgd",
        learning_rate_init=FLAGS.learning_rate,
        batch_size=min(FLAGS.batch_size, len(train_x)),
        random_state=FLAGS.seed,
    )
    print(f"Training on {len(train_x)} images with learning rate {FLAGS.learning_rate:g}")
    for epoch in range(1, FLAGS.epochs + 1):
        model.partial_fit(train_x, train_y, classes=np.arange(10))
        print(
            f"Epoch {epoch:2d}/{FLAGS.epochs}: loss {model.loss_:.4f}, "
            f"accuracy {model.score(train_x, train_y):.4f}"
        )
    accuracy = model.score(test_x, test_y)
    print(f"Test accuracy: {accuracy:.4f}")
    # A line like this is a metric, which `caliban status` shows and sorts by.
    print("caliban:", json.dumps({"accuracy": round(accuracy, 4), "loss": round(model.loss_, 4)}))


if __name__ == "__main__":
    app.run(main)
