"""Losses to be tried on a small net in place of distillation_loss, by frontier.py's `tried`. Those that do not help go again."""

import tensorflow as tf

import distill
import training


def standardised(temperature, alpha, tau=2.0):
    """Logit standardisation (Sun et al. 2024): each logit vector less its mean, over its deviation, at their T of 2."""

    def z(logits):
        centred = logits - tf.reduce_mean(logits, -1, keepdims=True)
        return centred / (tf.math.reduce_std(logits, -1, keepdims=True) + 1e-7)

    def loss(labels, teacher_logits, student_logits):
        soft = distill.distillation_loss(labels, z(teacher_logits), z(student_logits), tau, 1.0)
        return alpha * soft + (1 - alpha) * training.cross_entropy(labels, student_logits)

    return loss


def transformed(temperature, alpha):
    """Weighted transformed teacher matching (Zheng & Yang 2024): no temperature in the student, weight sum_k p_k^(1/T)."""

    def loss(labels, teacher_logits, student_logits):
        soft = tf.nn.log_softmax(teacher_logits / temperature)
        kl = tf.reduce_sum(tf.exp(soft) * (soft - tf.nn.log_softmax(student_logits)), -1)
        weight = tf.reduce_sum(tf.exp(tf.nn.log_softmax(teacher_logits) / temperature), -1)
        return alpha * weight * kl + (1 - alpha) * training.cross_entropy(labels, student_logits)

    return loss


def decoupled(temperature, alpha):
    """Decoupled distillation (Zhao et al. 2022), beta 1: the other classes count for a sure teacher as for one in doubt."""

    def split(labels, logits):
        logs = tf.nn.log_softmax(logits / temperature)
        label = tf.one_hot(labels, logs.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        target = tf.reduce_sum(tf.where(label, logs, 0.0), -1)
        others = tf.where(label, -1e4, logs)
        rest = tf.reduce_logsumexp(others, -1)
        return target, rest, others - rest[:, None]

    def loss(labels, teacher_logits, student_logits):
        (target, rest, others), (s_target, s_rest, s_others) = (
            split(labels, teacher_logits),
            split(labels, student_logits),
        )
        kl = tf.exp(target) * (target - s_target) + tf.exp(rest) * (rest - s_rest)
        kl += tf.reduce_sum(tf.exp(others) * (others - s_others), -1)
        return alpha * temperature**2 * kl + (1 - alpha) * training.cross_entropy(labels, student_logits)

    return loss


LOSSES = {"standardised": standardised, "transformed": transformed, "decoupled": decoupled}
