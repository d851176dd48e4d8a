"""Slow twins: the update rules in the words of their papers, one plain function each, to test fast optimizers against.

A twin takes θ_0 and the gradients g_1, g_2, … and returns θ_1, θ_2, …. The gradients are given: they do not depend on θ.
Everything is out of place and in the dtype that came. A name keeps its paper's index, so ``m_t = beta_1 * m_t + …`` has m_{t-1}
on its right. A rate, a momentum, a β or a decay may be a sequence with one value an update; β^t is then the present β to the t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Value = float | Sequence[float]
Place = Literal["outside", "inside"]
Decay = Literal["rate", "schedule", "constant"]


def at(value: Value, t: int) -> float:
    """The value of a hyperparameter at update t = 1, 2, …"""
    return value if isinstance(value, int | float) else value[t - 1]


# -- one direction ------------------------------------------------------------------------------------------------------------


def sgd(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    momentum: Value = 0.0,
    dampening: Value = 0.0,
    weight_decay: Value = 0.0,
    nesterov: bool = False,
) -> list[Tensor]:
    """Stochastic gradient descent with a momentum buffer, in torch's convention: the buffer starts at g_1, undamped.

    The rate is outside the buffer, so a new rate scales all that the buffer holds.
    """
    theta_t, b_t, path = theta, None, []
    for t, g in enumerate(gradients, start=1):
        eta, mu, tau, decay = at(lr, t), at(momentum, t), at(dampening, t), at(weight_decay, t)
        g_t = g + decay * theta_t
        if mu == 0:  # without momentum there is no buffer, and nothing to dampen
            direction = g_t
        else:
            b_t = g_t if b_t is None else mu * b_t + (1 - tau) * g_t
            direction = g_t + mu * b_t if nesterov else b_t
        theta_t = theta_t - eta * direction
        path.append(theta_t)
    return path


def heavy_ball(theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, momentum: Value = 0.9) -> list[Tensor]:
    """Polyak 1964, "Some methods of speeding up the convergence of iteration methods": the ball keeps its last *movement*.

    θ_{t+1} = θ_t − α·g_t + β·(θ_t − θ_{t−1}). The rate is inside what is kept: equal to `sgd` while the rate is constant.
    """
    before, theta_t, path = theta, theta, []
    for t, g_t in enumerate(gradients, start=1):
        alpha, beta = at(lr, t), at(momentum, t)
        before, theta_t = theta_t, theta_t - alpha * g_t + beta * (theta_t - before)
        path.append(theta_t)
    return path


def nesterov(theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, momentum: Value = 0.9) -> list[Tensor]:
    """Sutskever et al. 2013, "On the importance of initialization and momentum", eqs. 3–4, in torch's form.

    The paper's v_t = μ·v_{t−1} − ε·∇f(θ + μ·v_{t−1}), with θ here the point *ahead*, where the gradient is taken, and b = −v/ε.
    """
    theta_t, b_t, path = theta, torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        eta, mu = at(lr, t), at(momentum, t)
        b_t = mu * b_t + g_t  # eq. 3
        theta_t = theta_t - eta * (g_t + mu * b_t)  # eq. 4, and the next look ahead
        path.append(theta_t)
    return path


def lion(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.99),
    weight_decay: Value = 0.0,
) -> list[Tensor]:
    """Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv 2302.06675, Algorithm 2."""
    theta_t, m_t, path = theta, torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        eta, beta_1, beta_2, decay = at(lr, t), at(betas[0], t), at(betas[1], t), at(weight_decay, t)
        c_t = beta_1 * m_t + (1 - beta_1) * g_t  # c_t = β1·m_{t-1} + (1−β1)·g_t
        theta_t = theta_t - eta * (c_t.sign() + decay * theta_t)  # θ_t = θ_{t-1} − η_t·(sign(c_t) + λ·θ_{t-1})
        m_t = beta_2 * m_t + (1 - beta_2) * g_t  # m_t = β2·m_{t-1} + (1−β2)·g_t, after the step
        path.append(theta_t)
    return path


# -- one size: the sum or the mean of all squares ------------------------------------------------------------------------------


def rms_mean(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    eps: float = 1e-8,
    eps_place: Place = "outside",
    weight_decay: Value = 0.0,
) -> list[Tensor]:
    """The tutorial's first σ: the root mean square of *all* gradients, σ_t = √(1/(t+1)·Σ_{i≤t} g_i²) with t = 0, 1, 2, …"""
    theta_t, seen, path = theta, [], []
    for n, g in enumerate(gradients, start=1):  # n = t + 1
        g_t = g + at(weight_decay, n) * theta_t
        seen.append(g_t**2)
        mean = torch.stack(seen).mean(dim=0)
        sigma_t = (mean + eps).sqrt() if eps_place == "inside" else mean.sqrt() + eps
        theta_t = theta_t - at(lr, n) / sigma_t * g_t
        path.append(theta_t)
    return path


def adagrad(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    lr_decay: float = 0.0,
    weight_decay: Value = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
) -> list[Tensor]:
    """Duchi et al. 2011, "Adaptive subgradient methods", JMLR 12, Figure 1: H_t = δ·I + diag(s_t), with δ outside the root.

    Torch adds the first value of the accumulator and a rate that falls as 1/(1 + (t−1)·lr_decay).
    """
    theta_t, squares, path = theta, torch.full_like(theta, initial_accumulator_value), []
    for t, g in enumerate(gradients, start=1):
        g_t = g + at(weight_decay, t) * theta_t
        eta = at(lr, t) / (1 + (t - 1) * lr_decay)
        squares = squares + g_t**2
        s_t = squares.sqrt()  # s_{t,i} = ‖g_{1:t,i}‖₂
        theta_t = theta_t - eta * g_t / (eps + s_t)  # x_{t+1} = x_t − η·H_t⁻¹·g_t
        path.append(theta_t)
    return path


def adagrad_keras(
    theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> list[Tensor]:
    """Keras: the accumulator starts at 0.1 and ε is inside the root."""
    theta_t, accumulator, path = theta, torch.full_like(theta, initial_accumulator_value), []
    for t, g_t in enumerate(gradients, start=1):
        accumulator = accumulator + g_t**2
        theta_t = theta_t - at(lr, t) * g_t / (accumulator + eps).sqrt()
        path.append(theta_t)
    return path


def adagrad_optax(
    theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> list[Tensor]:
    """Optax: as in Keras, and no step at all where the sum of squares is still zero."""
    theta_t, sum_of_squares, path = theta, torch.full_like(theta, initial_accumulator_value), []
    for t, g_t in enumerate(gradients, start=1):
        sum_of_squares = sum_of_squares + g_t**2
        scale = torch.where(sum_of_squares > 0, 1 / (sum_of_squares + eps).sqrt(), torch.zeros_like(theta))
        theta_t = theta_t - at(lr, t) * scale * g_t
        path.append(theta_t)
    return path


def adagrad_tutorial(theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, eps: float = 1e-8) -> list[Tensor]:
    """The tutorials: θ ← θ − η/√(Σ g² + ε)·g, the sum from zero and ε inside the root."""
    theta_t, sum_of_squares, path = theta, torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        sum_of_squares = sum_of_squares + g_t**2
        theta_t = theta_t - at(lr, t) / (sum_of_squares + eps).sqrt() * g_t
        path.append(theta_t)
    return path


# -- one size: the running mean of squares ------------------------------------------------------------------------------------


def rmsprop(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    alpha: Value = 0.99,
    eps: float = 1e-8,
    weight_decay: Value = 0.0,
    momentum: Value = 0.0,
    centered: bool = False,
) -> list[Tensor]:
    """Torch's RMSprop: ε outside the root, momentum on g/σ, the rate outside the momentum.

    Centered: the mean gradient's square is taken off, as in Graves 2013, arXiv 1308.0850.
    """
    theta_t, v_t, mean_t, b_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(gradients, start=1):
        a, mu = at(alpha, t), at(momentum, t)
        g_t = g + at(weight_decay, t) * theta_t
        v_t = a * v_t + (1 - a) * g_t**2
        mean_t = a * mean_t + (1 - a) * g_t
        sigma_t = (v_t - mean_t**2).sqrt() if centered else v_t.sqrt()
        b_t = mu * b_t + g_t / (sigma_t + eps)
        theta_t = theta_t - at(lr, t) * b_t
        path.append(theta_t)
    return path


def rmsprop_keras(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    rho: Value = 0.9,
    momentum: Value = 0.0,
    eps: float = 1e-7,
    centered: bool = False,
) -> list[Tensor]:
    """Keras, and Graves 2013, arXiv 1308.0850: ε inside the root, and the momentum keeps steps that already have their rate."""
    theta_t, velocity, average, kept, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        r = at(rho, t)
        velocity = r * velocity + (1 - r) * g_t**2
        average = r * average + (1 - r) * g_t
        variance = velocity - average**2 if centered else velocity
        increment = at(lr, t) * g_t / (variance + eps).sqrt()
        kept = at(momentum, t) * kept + increment
        theta_t = theta_t - kept
        path.append(theta_t)
    return path


def rmsprop_optax(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    decay: Value = 0.9,
    eps: float = 1e-8,
    momentum: Value = 0.0,
    centered: bool = False,
) -> list[Tensor]:
    """Optax, read along its chain: scale by the root mean square (ε inside), times −η, then the trace of the momentum."""
    theta_t, nu, mu, trace, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        d = at(decay, t)
        nu = (1 - d) * g_t**2 + d * nu
        mu = (1 - d) * g_t + d * mu
        update = g_t / (nu - mu**2 + eps).sqrt() if centered else g_t / (nu + eps).sqrt()
        update = -at(lr, t) * update
        trace = update + at(momentum, t) * trace
        theta_t = theta_t + trace
        path.append(theta_t)
    return path


def rmsprop_paper(
    theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, alpha: Value = 0.9, eps: float = 1e-8
) -> list[Tensor]:
    """Hinton's lecture 6e (2012): MeanSquare(w, t) = 0.9·MeanSquare(w, t−1) + 0.1·g², and the gradient divided by its root.

    The slide has no ε; it stands outside the root here, as a guard only.
    """
    theta_t, mean_square, path = theta, torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        a = at(alpha, t)
        mean_square = a * mean_square + (1 - a) * g_t**2
        theta_t = theta_t - at(lr, t) * g_t / (mean_square.sqrt() + eps)
        path.append(theta_t)
    return path


def rmsprop_tutorial(
    theta: Tensor, gradients: Sequence[Tensor], *, lr: Value, alpha: Value = 0.9, eps: float = 1e-8
) -> list[Tensor]:
    """The tutorials: σ⁰ = |g⁰|, then σᵗ = √(α·(σᵗ⁻¹)² + (1−α)·(gᵗ)²). ε is inside the root and is not carried on."""
    theta_t, sigma_t, path = theta, torch.zeros_like(theta), []
    for n, g_t in enumerate(gradients, start=1):  # n = t + 1
        a = at(alpha, n)
        sigma_t = g_t.abs() if n == 1 else (a * sigma_t**2 + (1 - a) * g_t**2).sqrt()
        theta_t = theta_t - at(lr, n) / (sigma_t**2 + eps).sqrt() * g_t
        path.append(theta_t)
    return path


def adadelta(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value = 1.0,
    rho: Value = 0.9,
    eps: float = 1e-6,
    weight_decay: Value = 0.0,
) -> list[Tensor]:
    """Zeiler 2012, "ADADELTA: an adaptive learning rate method", arXiv 1212.5701, Algorithm 1; the paper has no rate: η = 1."""
    x_t, mean_g2, mean_dx2, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(gradients, start=1):
        r = at(rho, t)
        g_t = g + at(weight_decay, t) * x_t
        mean_g2 = r * mean_g2 + (1 - r) * g_t**2  # line 4
        dx_t = -(mean_dx2 + eps).sqrt() / (mean_g2 + eps).sqrt() * g_t  # line 5: Δx_t = −RMS[Δx]_{t-1}/RMS[g]_t·g_t
        mean_dx2 = r * mean_dx2 + (1 - r) * dx_t**2  # line 6
        x_t = x_t + at(lr, t) * dx_t  # line 7
        path.append(x_t)
    return path


# -- direction and size: Adam and its kin -------------------------------------------------------------------------------------


def adam(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Value = 0.0,
) -> list[Tensor]:
    """Kingma & Ba 2014, "Adam: a method for stochastic optimization", arXiv 1412.6980, Algorithm 1. The decay is part of g."""
    theta_t, m_t, v_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(gradients, start=1):
        alpha, beta_1, beta_2 = at(lr, t), at(betas[0], t), at(betas[1], t)
        g_t = g + at(weight_decay, t) * theta_t
        m_t = beta_1 * m_t + (1 - beta_1) * g_t  # biased first moment
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2  # biased second raw moment
        m_hat = m_t / (1 - beta_1**t)  # bias-corrected first moment
        v_hat = v_t / (1 - beta_2**t)  # bias-corrected second raw moment
        theta_t = theta_t - alpha * m_hat / (v_hat.sqrt() + eps)
        path.append(theta_t)
    return path


def adam_keras(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-7,
) -> list[Tensor]:
    """Keras: the faster order at the end of §2 of arXiv 1412.6980, where ε is "epsilon hat", beside the *uncorrected* √v_t."""
    theta_t, m_t, v_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        beta_1, beta_2 = at(betas[0], t), at(betas[1], t)
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2
        alpha_t = at(lr, t) * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        theta_t = theta_t - alpha_t * m_t / (v_t.sqrt() + eps)
        path.append(theta_t)
    return path


def adam_optax(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> list[Tensor]:
    """Optax: one ε inside the root, of the corrected moment, and one outside."""
    theta_t, mu, nu, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        b1, b2 = at(betas[0], t), at(betas[1], t)
        mu = (1 - b1) * g_t + b1 * mu
        nu = (1 - b2) * g_t**2 + b2 * nu
        mu_hat, nu_hat = mu / (1 - b1**t), nu / (1 - b2**t)
        theta_t = theta_t - at(lr, t) * mu_hat / ((nu_hat + eps_root).sqrt() + eps)
        path.append(theta_t)
    return path


def adam_tutorial(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    bias_correction: bool = True,
) -> list[Tensor]:
    """The tutorials: θ ← θ − η·m/√(v + ε), one with bias-corrected m and v, one without."""
    theta_t, m_t, v_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        beta_1, beta_2 = at(betas[0], t), at(betas[1], t)
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2
        m, v = (m_t / (1 - beta_1**t), v_t / (1 - beta_2**t)) if bias_correction else (m_t, v_t)
        theta_t = theta_t - at(lr, t) * m / (v + eps).sqrt()
        path.append(theta_t)
    return path


def adamw(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Value = 0.01,
    decay: Decay = "rate",
    base_lr: float | None = None,
) -> list[Tensor]:
    """Loshchilov & Hutter 2017, "Decoupled weight decay regularization", arXiv 1711.05101, Algorithm 2.

    λ is multiplied with η_t ("rate", torch), with η_t/η_0 ("schedule", the paper, whose η_t is only the multiplier of its α), or
    with 1 ("constant"). η_0 is `base_lr`, or the first rate.
    """
    theta_t, m_t, v_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    eta_0 = at(lr, 1) if base_lr is None else base_lr
    for t, g_t in enumerate(gradients, start=1):
        eta_t, beta_1, beta_2 = at(lr, t), at(betas[0], t), at(betas[1], t)
        factor = eta_t if decay == "rate" else eta_t / eta_0 if decay == "schedule" else 1.0
        m_t = beta_1 * m_t + (1 - beta_1) * g_t  # line 7
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2  # line 8
        m_hat = m_t / (1 - beta_1**t)  # line 9
        v_hat = v_t / (1 - beta_2**t)  # line 10
        theta_t = theta_t * (1 - factor * at(weight_decay, t)) - eta_t * m_hat / (v_hat.sqrt() + eps)  # line 12
        path.append(theta_t)
    return path


def amsgrad(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Value = 0.0,
) -> list[Tensor]:
    """Reddi et al. 2018, "On the convergence of Adam and beyond", arXiv 1904.09237, Algorithm 2, as torch does it.

    The maximum is of the *raw* v and is bias-corrected afterwards (the paper corrects nothing).
    """
    theta_t, m_t, v_t, v_max, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(gradients, start=1):
        beta_1, beta_2 = at(betas[0], t), at(betas[1], t)
        g_t = g + at(weight_decay, t) * theta_t
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2
        v_max = torch.maximum(v_max, v_t)
        m_hat = m_t / (1 - beta_1**t)
        v_hat = v_max / (1 - beta_2**t)
        theta_t = theta_t - at(lr, t) * m_hat / (v_hat.sqrt() + eps)
        path.append(theta_t)
    return path


def amsgrad_optax(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> list[Tensor]:
    """Optax: the maximum of the *corrected* v, so that σ never falls."""
    theta_t, mu, nu, nu_max, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        b1, b2 = at(betas[0], t), at(betas[1], t)
        mu = (1 - b1) * g_t + b1 * mu
        nu = (1 - b2) * g_t**2 + b2 * nu
        mu_hat, nu_hat = mu / (1 - b1**t), nu / (1 - b2**t)
        nu_max = torch.maximum(nu_max, nu_hat)
        theta_t = theta_t - at(lr, t) * mu_hat / ((nu_max + eps_root).sqrt() + eps)
        path.append(theta_t)
    return path


def nadam(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Value = 0.0,
    momentum_decay: float = 4e-3,
    decoupled: bool = False,
) -> list[Tensor]:
    """Dozat 2016, "Incorporating Nesterov momentum into Adam", Algorithm 2, with the schedule of μ in his report of 2015.

    As torch does it: m keeps β1 where the paper has μ_t, and v̂ is not multiplied by β2.
    """
    theta_t, m_t, v_t, mu_product, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), 1.0, []
    for t, g in enumerate(gradients, start=1):
        eta, beta_1, beta_2, decay = at(lr, t), at(betas[0], t), at(betas[1], t), at(weight_decay, t)
        g_t = g if decoupled else g + decay * theta_t
        theta_t = theta_t - eta * decay * theta_t if decoupled else theta_t
        mu_t = beta_1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))  # μ_t = β1·(1 − ½·0.96^(t·ψ))
        mu_next = beta_1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))  # μ_{t+1}
        mu_product = mu_product * mu_t  # Π_{i≤t} μ_i
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2
        m_hat = mu_next * m_t / (1 - mu_product * mu_next) + (1 - mu_t) * g_t / (1 - mu_product)
        v_hat = v_t / (1 - beta_2**t)
        theta_t = theta_t - eta * m_hat / (v_hat.sqrt() + eps)
        path.append(theta_t)
    return path


def radam(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Value = 0.0,
    decoupled: bool = False,
    threshold: float = 5.0,
) -> list[Tensor]:
    """Liu et al. 2019, "On the variance of the adaptive learning rate and beyond", arXiv 1908.03265, Algorithm 2.

    As torch does it: rectified where ρ_t > 5 (the paper: 4), and ε beside the *uncorrected* √v_t (the paper has none).
    """
    theta_t, m_t, v_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(gradients, start=1):
        alpha, beta_1, beta_2, decay = at(lr, t), at(betas[0], t), at(betas[1], t), at(weight_decay, t)
        g_t = g if decoupled else g + decay * theta_t
        theta_t = theta_t - alpha * decay * theta_t if decoupled else theta_t
        rho_inf = 2 / (1 - beta_2) - 1  # the longest the simple average can be
        v_t = beta_2 * v_t + (1 - beta_2) * g_t**2
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        m_hat = m_t / (1 - beta_1**t)
        rho_t = rho_inf - 2 * t * beta_2**t / (1 - beta_2**t)  # its length now
        if rho_t > threshold:  # the variance is tractable
            l_t = math.sqrt(1 - beta_2**t) / (v_t.sqrt() + eps)  # adaptive rate
            r_t = math.sqrt((rho_t - 4) * (rho_t - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho_t))  # rectification
            theta_t = theta_t - alpha * r_t * m_hat * l_t
        else:
            theta_t = theta_t - alpha * m_hat
        path.append(theta_t)
    return path


def adabelief(
    theta: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: Value,
    betas: tuple[Value, Value] = (0.9, 0.999),
    eps: float = 1e-16,
) -> list[Tensor]:
    """Zhuang et al. 2020, "AdaBelief optimizer", arXiv 2010.07468, Algorithm 2: ε goes into s_t and stays, and again outside."""
    theta_t, m_t, s_t, path = theta, torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g_t in enumerate(gradients, start=1):
        beta_1, beta_2 = at(betas[0], t), at(betas[1], t)
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        s_t = beta_2 * s_t + (1 - beta_2) * (g_t - m_t) ** 2 + eps
        m_hat = m_t / (1 - beta_1**t)
        s_hat = s_t / (1 - beta_2**t)
        theta_t = theta_t - at(lr, t) * m_hat / (s_hat.sqrt() + eps)
        path.append(theta_t)
    return path


# -- clipping: gradients in, gradients out ------------------------------------------------------------------------------------


def agc(w: Tensor, g: Tensor, limit: float = 0.01, eps: float = 1e-3) -> Tensor:
    """Brock et al. 2021, "High-performance large-scale image recognition without normalization", arXiv 2102.06171, eq. 3.

    A unit is one index of dimension 0, for vectors and scalars the whole: λ·‖W_i‖*/‖G_i‖·G_i where ‖G_i‖/‖W_i‖* > λ.
    """
    if w.dim() <= 1:
        return agc(w.reshape(1, -1), g.reshape(1, -1), limit, eps).reshape(w.shape)
    units = []
    for w_i, g_i in zip(w, g, strict=True):
        w_norm = max(float((w_i**2).sum().sqrt()), eps)  # ‖W_i‖* = max(‖W_i‖, ε)
        g_norm = float((g_i**2).sum().sqrt())
        units.append(limit * w_norm / g_norm * g_i if g_norm / w_norm > limit else g_i)
    return torch.stack(units)


def clip_norm(gradients: Sequence[Tensor], limit: float, eps: float = 0.0) -> list[Tensor]:
    """Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", arXiv 1211.5063, Algorithm 1.

    The norm is of all gradients together. With eps = 1e-6 it is torch's rule, limit/(norm + ε) where that is below 1.
    """
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [limit / (norm + eps) * g if norm + eps > limit else g.clone() for g in gradients]


def clip_value(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Every entry of every gradient into [−limit, limit]."""
    return [torch.where(g > limit, limit, torch.where(g < -limit, -limit, g)) for g in gradients]


RULES: tuple[Callable[..., list[Tensor]], ...] = (
    sgd,
    heavy_ball,
    nesterov,
    lion,
    rms_mean,
    adagrad,
    adagrad_keras,
    adagrad_optax,
    adagrad_tutorial,
    rmsprop,
    rmsprop_keras,
    rmsprop_optax,
    rmsprop_paper,
    rmsprop_tutorial,
    adadelta,
    adam,
    adam_keras,
    adam_optax,
    adam_tutorial,
    adamw,
    amsgrad,
    amsgrad_optax,
    nadam,
    radam,
    adabelief,
)

CLIPS: tuple[Callable[..., Tensor | list[Tensor]], ...] = (agc, clip_norm, clip_value)

TWINS: dict[str, Callable[..., Any]] = {twin.__name__: twin for twin in RULES} | {clip.__name__: clip for clip in CLIPS}
