"""Buy-till-you-die models against published fits, integration over customers, and simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InputError
from training import btyd
from training.btyd import BGNBD, GammaGamma, ParetoNBD

GOLDEN = Path(__file__).parent / "golden" / "cdnow_sample.csv"
MODELS = (BGNBD, ParetoNBD)
METHODS = ("p_alive", "p_no_order", "expected_orders", "log_likelihood")


@pytest.fixture(scope="module")
def cdnow():
    return np.genfromtxt(GOLDEN, delimiter=",", names=True, skip_header=3)


def call(model, method, x, tx, T, t):
    ahead = (t,) if method in ("p_no_order", "expected_orders") else ()
    return getattr(model, method)(x, tx, T, *ahead)


def shop(n, seed, weeks=104.0, *, r=0.6, alpha=6.0, s=0.7, beta=15.0):
    """Pareto/NBD customers to the day."""
    rng = np.random.default_rng(seed)
    T = np.ceil(rng.uniform(1, weeks * 7, n)) / 7
    rate, dropout = rng.gamma(r, 1 / alpha, n), rng.gamma(s, 1 / beta, n)
    life = np.minimum(rng.exponential(1 / dropout), T)
    x = rng.poisson(rate * life).astype(float)
    last = life * rng.uniform(size=n) ** (1 / np.maximum(x, 1))
    return x, np.where(x > 0, np.floor(last * 7) / 7, 0.0), T


def bg_shop(n, seed, weeks=104.0, *, r=0.8, alpha=5.0, a=0.6, b=2.4):
    """BG/NBD customers, order by order."""
    rng = np.random.default_rng(seed)
    T = rng.uniform(1, weeks, n)
    rate, leave = rng.gamma(r, 1 / alpha, n), rng.beta(a, b, n)
    x, tx, alive = np.zeros(n), np.zeros(n), np.ones(n, dtype=bool)
    while alive.any():
        after = tx + rng.exponential(1 / rate)
        alive &= after <= T
        x, tx = x + alive, np.where(alive, after, tx)
        alive &= rng.uniform(size=n) >= leave
    return x, tx, T


# --- published numbers ---


def test_log_likelihoods_on_cdnow_are_the_published_ones(cdnow):
    rows = cdnow["frequency"], cdnow["recency"], cdnow["age"]
    bg = BGNBD(0.243, 4.414, 0.793, 2.426).log_likelihood(*rows)
    assert np.sum(cdnow["customers"] * bg) == pytest.approx(-9582.4, abs=0.05)
    pareto = ParetoNBD(0.5533971, 10.5801985, 0.6060625, 11.6562237).log_likelihood(*rows)
    assert np.sum(cdnow["customers"] * pareto) == pytest.approx(-9594.976, abs=0.005)


def test_fits_on_cdnow_are_the_published_ones(cdnow):
    rows = cdnow["frequency"], cdnow["recency"], cdnow["age"]
    bg = BGNBD.fit(*rows, weights=cdnow["customers"])
    assert tuple(bg.as_dict().values()) == pytest.approx((0.243, 4.414, 0.793, 2.426), rel=0.01)
    total = np.sum(cdnow["customers"] * bg.log_likelihood(*rows))
    assert total == pytest.approx(-9582.43, abs=0.02)
    pareto = ParetoNBD.fit(*rows, weights=cdnow["customers"])
    published = (0.553, 10.578, 0.606, 11.669)
    assert tuple(pareto.as_dict().values()) == pytest.approx(published, rel=0.03)
    total = np.sum(cdnow["customers"] * pareto.log_likelihood(*rows))
    assert total == pytest.approx(-9594.98, abs=0.02)


def test_forecasts_are_the_published_ones():
    bg = BGNBD(0.243, 4.414, 0.793, 2.426)
    assert bg.expected_orders(2, 30.43, 38.86, 39) == pytest.approx(1.226, abs=5e-4)
    pareto = ParetoNBD(0.5533971, 10.5801985, 0.6060625, 11.6562237)  # the R package BTYD
    assert pareto.expected_orders(0, 0, 0, 52) == pytest.approx(1.473, abs=5e-4)
    assert pareto.expected_orders(26, 30.86, 31, 52) == pytest.approx(25.46, abs=5e-3)
    assert pareto.p_alive(26, 30.86, 31) == pytest.approx(0.9979, abs=5e-5)
    assert pareto.p_alive(0, 0, 39) == pytest.approx(0.2941633, abs=1e-6)


def test_gamma_gamma_on_cdnow_is_the_published_one(cdnow):
    spend = cdnow["frequency"], cdnow["mean_spend"]
    fitted = GammaGamma.fit(*spend, weights=cdnow["customers"])
    assert tuple(fitted.as_dict().values()) == pytest.approx((6.25, 3.74, 15.44), rel=0.03)
    published = GammaGamma(6.25, 3.74, 15.44)
    expected = [24.66, 18.91, 35.17]
    np.testing.assert_allclose(
        published.expected_spend([2, 1, 0], [22.35, 11.77, np.nan]), expected, rtol=3e-3
    )


# --- integration over the customers that a row may be ---


def grid(shape, rate):
    """Points and probabilities of gamma(shape, rate), by the trapezoid rule in its logarithm."""
    value = np.exp(np.arange(-42 / min(shape, 1), np.log(90 + 4 * shape), 0.1))
    weight = value**shape * np.exp(-value)
    return value / rate, weight / weight.sum()


def beta_grid(a, b):
    u = np.arange(-42 / min(a, 1), 42 / min(b, 1), 0.1)
    p, rest = 1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))
    weight = p**a * rest**b
    return p, rest, weight / weight.sum()


def summed(rate, weights, alive, left, orders, none):
    """Likelihood, P(alive), P(no order) and expected orders from those of each possible self."""
    alive, left = alive * weights * rate, left * weights * rate
    total = alive.sum() + left.sum()
    silent = (alive * none).sum() + left.sum()
    return total, alive.sum() / total, silent / total, (alive * orders).sum() / total


def bg_by_integration(model, x, tx, T, t):
    rate, w_rate = grid(model.r, model.alpha)
    p, rest, w_p = beta_grid(model.a, model.b)
    rate, w = rate[:, None], w_rate[:, None] * w_p
    alive = rest**x * np.exp(-rate * T)
    left = p * rest ** max(x - 1, 0) * np.exp(-rate * tx) * (x > 0)
    return summed(rate**x, w, alive, left, -np.expm1(-rate * p * t) / p, np.exp(-rate * t))


def pareto_by_integration(model, x, tx, T, t):
    rate, w_rate = grid(model.r, model.alpha)
    mu, w_mu = grid(model.s, model.beta)
    rate, w = rate[:, None], w_rate[:, None] * w_mu
    both = rate + mu
    alive = np.exp(-both * T)
    left = mu / both * (np.exp(-both * tx) - alive)
    none = np.exp(-both * t) - mu / both * np.expm1(-both * t)
    return summed(rate**x, w, alive, left, -rate / mu * np.expm1(-mu * t), none)


@pytest.mark.parametrize(
    "history", [(0, 0, 30.0, 52.0), (1, 4.0, 38.9, 39.0), (6, 35.0, 39.0, 8.0), (3, 2.0, 90, 104.0)]
)
@pytest.mark.parametrize(
    "model",
    [
        BGNBD(0.243, 4.414, 0.793, 2.426),
        BGNBD(1.2, 5.0, 1.0, 4.0),
        BGNBD(0.6, 0.4, 2.7, 1.1),
        BGNBD(9.0, 30.0, 0.5, 0.7),  # alternating series: by panels
        ParetoNBD(0.553, 10.578, 0.606, 11.669),
        ParetoNBD(0.8, 3.0, 1.0, 60.0),
        ParetoNBD(2.5, 40.0, 1.7, 6.0),
        ParetoNBD(0.6, 8.0, 0.5, 8.0),
        ParetoNBD(0.9, 0.03, 0.7, 300.0),  # far apart: the fraction gives way to the trapezoid
    ],
    ids=str,
)
def test_forecasts_are_integrals_over_the_population(model, history):
    integrate = bg_by_integration if isinstance(model, BGNBD) else pareto_by_integration
    likelihood, p_alive, p_none, orders = integrate(model, *history)
    x, tx, T, t = history
    assert model.log_likelihood(x, tx, T) == pytest.approx(np.log(likelihood), rel=1e-8)
    assert model.p_alive(x, tx, T) == pytest.approx(p_alive, rel=1e-8)
    assert model.p_no_order(x, tx, T, t) == pytest.approx(p_none, rel=1e-8)
    assert model.expected_orders(x, tx, T, t) == pytest.approx(orders, rel=1e-8)
    later = model.log_likelihood(x, tx, T + t) - model.log_likelihood(x, tx, T)
    assert model.p_no_order(x, tx, T, t) == pytest.approx(np.exp(later), rel=1e-9)


def test_expected_spend_is_the_mean_over_the_population():
    model = GammaGamma(3.0, 2.4, 18.0)
    nu, weight = grid(model.q, model.gamma)
    for n, m in ((1, 12.0), (4, 90.0), (0, 0.0)):
        seen = weight * nu ** (model.p * n) * np.exp(-nu * n * m)
        expected = (seen * model.p / nu).sum() / seen.sum()
        assert model.expected_spend(n, m) == pytest.approx(expected, rel=1e-8)


# --- properties ---

SIZE = st.floats(-8, 8).map(lambda v: float(np.exp(v)))
HISTORY = st.tuples(
    st.one_of(st.integers(0, 5), st.integers(0, 10_000)), st.floats(0, 1), st.floats(0, 2000)
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(MODELS), st.tuples(SIZE, SIZE, SIZE, SIZE), HISTORY)
def test_forecasts_stay_finite_ordered_and_consistent(cls, parameters, history):
    model = cls(*parameters)
    x, share, T = history
    t = np.array([0.0, 1e-6, 0.1, 4.3, 26.0, 104.0, 520.0])
    rows = x, (share * T if x else 0.0), T
    alive, none, orders = (call(model, m, *rows, t) for m in METHODS[:3])
    assert np.isfinite(model.log_likelihood(*rows))
    assert 0 <= alive <= 1
    assert ((none >= 0) & (none <= 1)).all()
    assert np.isfinite(orders).all()
    assert none[0] == 1
    assert orders[0] == 0
    assert (np.diff(none) <= 1e-12).all()
    assert (np.diff(orders) >= -1e-10 * orders[1:]).all()
    assert (orders >= 1 - none - 1e-9).all()
    assert (1 - none <= alive + 1e-12).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0.01, 8), st.floats(1.01, 8), st.floats(0.01, 1e5), st.floats(0.01, 1e6))
def test_expected_spend_lies_between_the_own_mean_and_the_populations(p, q, gamma, m):
    model = GammaGamma(p, q, gamma)
    n = np.array([0.0, 1.0, 5.0, 1e4])
    value = model.expected_spend(n, m)
    low, high = sorted((value[0], m))
    assert value[0] == pytest.approx(p * gamma / (q - 1))
    assert ((value >= low * (1 - 1e-9)) & (value <= high * (1 + 1e-9))).all()


@pytest.mark.parametrize(
    ("model", "lengths"),
    [
        (BGNBD(0.243, 4.414, 0.793, 2.426), range(1, 41)),
        (ParetoNBD(0.55, 10.6, 0.61, 11.7), range(1, 41)),
        # Those whose rows partly take the slow forms.
        (BGNBD(30.0, 9.0, 0.4, 0.8), (1, 2, 7, 33)),
        (ParetoNBD(0.9, 0.003, 0.7, 300.0), (1, 2, 7, 33)),
        (ParetoNBD(0.9, 300.0, 0.7, 0.003), (1, 2, 7, 33)),
    ],
    ids=str,
)
def test_a_row_has_the_same_bits_wherever_it_stands(model, lengths):
    x, tx, T = shop(40, 5)
    x[0], tx[0], T[0] = 10_000, 300.25, 301.5
    for method in METHODS:
        alone = np.array(
            [float(call(model, method, *row, 52.0)) for row in zip(x, tx, T, strict=True)]
        )
        batch = call(model, method, x, tx, T, 52.0)
        np.testing.assert_array_equal(batch, alone)
        for length in lengths:
            part = slice(40 - length, 40)
            np.testing.assert_array_equal(
                call(model, method, x[part], tx[part], T[part], 52.0), batch[part]
            )
        strided = [np.repeat(column, 3)[1::3] for column in (x, tx, T)]
        np.testing.assert_array_equal(call(model, method, *strided, 52.0), batch)
        np.testing.assert_array_equal(
            call(model, method, x[::-1], tx[::-1], T[::-1], 52.0), batch[::-1]
        )


@pytest.mark.parametrize("cls", MODELS)
def test_times_ahead_broadcast_against_rows(cls):
    model, (x, tx, T) = cls(0.6, 6.0, 0.7, 5.0), shop(30, 6)
    t = np.array([4.3, 52.0, 104.0])
    for method in ("p_no_order", "expected_orders"):
        table = call(model, method, x[:, None], tx[:, None], T[:, None], t)
        each = [call(model, method, x, tx, T, ahead) for ahead in t]
        np.testing.assert_array_equal(table, np.stack(each, axis=1))
        assert call(model, method, [], [], [], 52.0).shape == (0,)


# --- fitting ---


def test_parameters_come_back_from_simulated_shops():
    for true, rows in (
        (ParetoNBD(0.6, 6.0, 0.7, 15.0), shop(20_000, 1)),
        (BGNBD(0.8, 5.0, 0.6, 2.4), bg_shop(20_000, 2)),
    ):
        fitted = type(true).fit(*rows)
        expected = tuple(true.as_dict().values())
        assert tuple(fitted.as_dict().values()) == pytest.approx(expected, rel=0.25)
        total = fitted.expected_orders(*rows, 52.0).sum()
        assert total == pytest.approx(true.expected_orders(*rows, 52.0).sum(), rel=0.02)
    rng = np.random.default_rng(3)
    n = rng.integers(1, 6, 30_000)
    m = rng.gamma(5.0 * n) / (n * rng.gamma(3.0, 1 / 20.0, 30_000))
    spend = GammaGamma.fit(n, m)
    assert tuple(spend.as_dict().values()) == pytest.approx((5.0, 3.0, 20.0), rel=0.1)


@pytest.mark.parametrize("cls", MODELS)
def test_no_start_leads_to_a_better_fit(cls):
    rows = shop(400, 8)
    fitted = cls.fit(*rows)
    best = fitted.log_likelihood(*rows).sum()
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.3):
        for _ in range(60):
            near = {k: v * np.exp(rng.normal(0, scale)) for k, v in fitted.as_dict().items()}
            assert cls(**near).log_likelihood(*rows).sum() <= best + 0.5  # the weak pull


@pytest.mark.parametrize("cls", MODELS)
def test_a_fit_has_the_same_bits_in_any_order_of_rows(cls, monkeypatch):
    monkeypatch.setattr(btyd, "MAX_FIT_ROWS", 300)  # thinning included
    rng = np.random.default_rng(4)
    rows = np.stack([*shop(900, 9), rng.uniform(0.1, 3.0, 900)])
    first = cls.fit(*rows)
    for _ in range(2):
        assert cls.fit(*rows[:, rng.permutation(900)]) == first


@pytest.mark.parametrize("cls", MODELS)
def test_weights_count_customers(cls):
    x, tx, T = shop(60, 10)
    times = np.random.default_rng(0).integers(0, 4, 60)
    repeated = cls.fit(*(np.repeat(column, times) for column in (x, tx, T)))
    assert cls.fit(x, tx, T, weights=times) == repeated


@pytest.mark.parametrize("cls", MODELS)
def test_thinning_keeps_the_forecast(cls, monkeypatch):
    rows = shop(3_000, 11)
    whole = cls.fit(*rows)
    monkeypatch.setattr(btyd, "MAX_FIT_ROWS", 800)
    thinned = cls.fit(*rows)
    ratio = thinned.expected_orders(*rows, 52.0).sum() / whole.expected_orders(*rows, 52.0).sum()
    assert ratio == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("cap", [1, 7, 50])
def test_thinning_keeps_the_weight_of_all_and_few_rows(cap, monkeypatch):
    monkeypatch.setattr(btyd, "MAX_FIT_ROWS", cap)
    x, tx, T = shop(500, 12)
    kept, w = btyd._thinned([x, tx, T], np.ones(500))
    assert w.sum() == pytest.approx(500)
    assert len(w) <= cap
    rows = set(zip(x, tx, T, strict=True))
    assert all(row in rows for row in zip(*kept, strict=True))


@pytest.mark.parametrize("cls", MODELS)
def test_a_fit_does_not_depend_on_the_unit_of_time(cls):
    x, tx, T = shop(80, 13)
    weeks, days = cls.fit(x, tx, T), cls.fit(x, tx * 7, T * 7)
    np.testing.assert_allclose(
        days.expected_orders(x, tx * 7, T * 7, 364.0),
        weeks.expected_orders(x, tx, T, 52.0),
        rtol=1e-3,
    )


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    "rows",
    [
        ([0] * 50, [0] * 50, np.arange(1, 51)),  # nobody came back
        ([0], [0], [0]),
        ([1], [3.0], [9.0]),
        ([30] * 40, [51.0] * 40, [52.0] * 40),  # everybody buys often, all alike
        ([1] * 9, [0.0] * 9, [1e-4] * 9),
        ([10_000, 0], [1999.0, 0], [2000.0, 2000.0]),
        ([4] * 30, [0.5] * 30, [1500.0] * 30),  # everybody has left
    ],
    ids=["one-time", "new", "single", "regular", "instant", "giant", "gone"],
)
def test_any_history_gives_finite_parameters_and_forecasts(cls, rows):
    model = cls.fit(*rows)
    assert all(np.isfinite(v) and v > 0 for v in model.as_dict().values())
    for method in METHODS:
        assert np.isfinite(call(model, method, *rows, 104.0)).all()
    assert np.isfinite(model.expected_orders(0, 0, 0, 104.0))


@pytest.mark.parametrize("m", [[10.0], [10.0] * 30, [1e-3, 1e9], [5.0, 5.0, 1e7]])
@pytest.mark.parametrize("n", [1, 12])
def test_any_spend_gives_a_finite_mean(m, n):
    model = GammaGamma.fit(np.full(len(m), n), m)
    assert np.isfinite(model.expected_spend([0, 1, 50], m[0])).all()
    assert model.q > 1


def test_gamma_gamma_fits_alike_in_any_order_and_leaves_out_who_says_nothing():
    rng = np.random.default_rng(7)
    n, m = rng.integers(0, 5, 300), rng.gamma(3.0, 10.0, 300)
    first = GammaGamma.fit(n, m)
    order = rng.permutation(300)
    assert GammaGamma.fit(n[order], m[order]) == first
    assert GammaGamma.fit(n[n > 0], m[n > 0]) == first


# --- errors and plain values ---


@pytest.mark.parametrize(
    ("row", "told"),
    [((-1, 0, 5), "-1"), ((2, 6.5, 5), "6.5"), ((1, np.nan, 5), "nan"), ((1, 1, np.inf), "inf")],
)
def test_impossible_histories_are_refused(row, told):
    columns = np.stack([(0, 0, 3), row], axis=1)
    for act in (BGNBD.fit, ParetoNBD.fit, ParetoNBD(1, 1, 1, 1).p_alive):
        with pytest.raises(InputError, match=rf"Row 1 has .*{told}.*\. Measure"):
            act(*columns)


def test_other_impossible_inputs_are_refused():
    with pytest.raises(InputError, match="at least one customer"):
        BGNBD.fit([1], [2], [3], weights=[0])
    with pytest.raises(InputError, match=r"Row 1 has -2\.0"):
        BGNBD.fit([1, 1], [2, 2], [3, 3], weights=[1, -2])
    with pytest.raises(InputError, match=r"time ahead .* Got -1\.0"):
        BGNBD(1, 1, 1, 1).p_no_order(1, 2, 3, [4, -1])
    with pytest.raises(InputError, match=r"Row 0 has 2\.0 and -5\.0"):
        GammaGamma(2, 2, 2).expected_spend([2], [-5])
    with pytest.raises(InputError, match="Got none of them"):
        GammaGamma.fit([0, 3], [10.0, 0.0])


@pytest.mark.parametrize(
    "model", [BGNBD(0.2, 4, 1, 2), ParetoNBD(0.5, 9, 1, 2), GammaGamma(6, 3, 15)]
)
def test_parameters_travel_as_plain_values(model):
    cls = type(model)
    assert cls.from_dict(json.loads(json.dumps(model.as_dict()))) == model
    name = next(iter(model.as_dict()))
    for wrong in (-1.0, float("nan"), "much", None):
        with pytest.raises(InputError, match=name):
            cls.from_dict({**model.as_dict(), name: wrong})
    for wrong in ({}, {**model.as_dict(), "z": 1.0}):
        with pytest.raises(InputError, match="needs a number for each of"):
            cls.from_dict(wrong)


def test_a_spend_without_a_mean_is_refused():
    with pytest.raises(InputError, match=r"above 1 .* Got 1\.0"):
        GammaGamma(2.0, 1.0, 5.0)
