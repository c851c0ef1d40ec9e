"""Knowledge distillation (Hinton, Vinyals & Dean 2015) on MNIST: `python minimal.py`, two minutes on two cores.

The teacher, a large net, learns from labels and images; each batch is shifted at random by up to a pixel. Then a small
net is trained twice, from the same first weights, on the images as they are, in the same order: the baseline from the
labels alone, the distilled student from the labels and the teacher's logits. Only the loss differs, and what the
teacher learned from shifted images reaches the student through the logits alone. Errors in the 10,000 test images with
seeds 0, 1, 2: teacher 101, 92, 103; baseline 211, 213, 223; distilled 150, 144, 174.
"""

import keras
import numpy as np
import tensorflow as tf

TEMPERATURE = 4.0  # T: softmax(logits / T) is softer than softmax(logits), so that small probabilities count too
ALPHA = 0.9  # weight of the soft term (the teacher) in the loss; the hard term (the labels) has 1 - ALPHA
BATCH_SIZE = 250
SEED = 0  # decides the first weights, the order of the images and the teacher's shifts


def dense_net(*units):
    """An untrained dense ReLU net from images (batch, 28, 28) float32 in [0, 1] to logits (batch, 10)."""
    keras.utils.set_random_seed(SEED)  # two nets with the same units start from the same weights
    hidden = [keras.layers.Dense(number, activation="relu") for number in units]
    return keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)])


def cross_entropy(labels, logits):
    """The loss on labels alone: labels (batch,), logits (batch, 10) -> (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def distillation_loss(labels, teacher_logits, logits):
    """ALPHA * T^2 * KL(teacher_T || student_T) + (1 - ALPHA) * cross-entropy: (batch,), 2 x (batch, 10) -> (batch,)."""
    teacher_log = tf.nn.log_softmax(teacher_logits / TEMPERATURE)  # log-probabilities at temperature T
    student_log = tf.nn.log_softmax(logits / TEMPERATURE)
    kl = tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=-1)
    # Why T^2: the gradient of kl with respect to the student's logits is (student_T - teacher_T) / T. For large T, that
    # difference itself shrinks as 1 / T, so the gradient shrinks as 1 / T^2. The factor T^2 undoes this, and keeps the
    # balance of the two terms when T changes.
    return ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * cross_entropy(labels, logits)


def train(net, loss_function, images, *targets, epochs=30, peak_rate=5e-3, max_shift=0):
    """Minimise loss_function(*targets, logits), (batch,), of net on images (n, 28, 28). The targets are those of the
    loss, with n rows each: labels (n,), and for distillation also the teacher's logits (n, 10)."""
    num_steps = len(images) // BATCH_SIZE
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(peak_rate, epochs * num_steps))
    optimizer.build(net.trainable_variables)

    @tf.function(jit_compile=True)
    def step(images, *targets):
        """One update of the weights on a batch; returns its mean loss, ()."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_function(*targets, net(images, training=True)))
        optimizer.apply(tape.gradient(loss, net.trainable_variables), net.trainable_variables)
        return loss

    random = np.random.default_rng(SEED)
    for epoch in range(epochs):
        total = 0.0
        for rows in np.array_split(random.permutation(len(images)), num_steps):
            shift = random.integers(-max_shift, max_shift + 1, size=2)  # in pixels, down and right
            total += step(np.roll(images[rows], shift, axis=(1, 2)), *(target[rows] for target in targets))
        print(f"\repoch {epoch + 1}/{epochs}, loss {total / num_steps:.4f} ", end="", flush=True)
    print()


def count_errors(net, images, labels):
    """How many of images (n, 28, 28) the net puts into another class than labels (n,) say."""
    return int(np.sum(net.predict(images, batch_size=1000, verbose=0).argmax(axis=-1) != labels))


def main():
    """Train teacher, baseline and distilled student on the 60,000 training images; print their test errors."""
    with np.load("mnist.npz") as mnist:
        images, test_images = (mnist[name].astype(np.float32) / 255 for name in ("x_train", "x_test"))
        labels, test_labels = (mnist[name].astype(np.int32) for name in ("y_train", "y_test"))
    teacher, baseline, distilled = dense_net(1200, 1200), dense_net(64, 64), dense_net(64, 64)
    print("teacher: labels, shifted images")
    train(teacher, cross_entropy, images, labels, epochs=10, peak_rate=1e-3, max_shift=1)
    teacher_logits = teacher.predict(images, batch_size=1000, verbose=0)  # (60000, 10), of the images without shifts
    print("baseline: labels")
    train(baseline, cross_entropy, images, labels)
    print("distilled student: labels and the teacher's logits")
    train(distilled, distillation_loss, images, labels, teacher_logits)
    for name, net in {"teacher": teacher, "baseline": baseline, "distilled": distilled}.items():
        print(f"{name:<9} {count_errors(net, test_images, test_labels):>4} errors in {len(test_labels):,} test images")


if __name__ == "__main__":
    main()
