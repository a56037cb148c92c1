"""The same ranges and the same rounding as torch.ao, where both are defined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at, observe
from efficient.quantize import channel, moving, quantize_inputs, quantizers, tensor
from efficient.quantize.formats import Affine

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no cross-check against it")
W = np.asarray(jax.random.normal(jax.random.key(0), (7, 5)) + 0.3)


def test_affine_rounding_a_channel():
    q = quantizers.affine(8)
    grid = q.grid(jnp.asarray(W))
    want = torch.fake_quantize_per_channel_affine(
        torch.tensor(W),
        torch.tensor(np.asarray(grid.scale)[0]),
        torch.tensor(np.asarray(grid.zero)[0]),
        1,
        0,
        255,
    )
    # torch multiplies by 1 / scale: what lies within 2 ulp of a half may round otherwise; none of these does.
    np.testing.assert_allclose(q.fake(jnp.asarray(W)), want.numpy(), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
@pytest.mark.parametrize("blocks", [tensor(), channel()])
def test_minmax_observers_find_the_same_grid(blocks):
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

    kind = {"dtype": torch.quint8, "quant_min": 0, "quant_max": 255}
    if blocks == tensor():
        observer = MinMaxObserver(**kind)
    else:
        observer = PerChannelMinMaxObserver(ch_axis=1, qscheme=torch.per_channel_affine, **kind)
    observer(torch.tensor(W))
    scale, zero = observer.calculate_qparams()
    ours = quantizers.affine(8, blocks).grid(jnp.asarray(W))
    np.testing.assert_allclose(np.ravel(ours.scale), scale.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(np.ravel(ours.zero), zero.numpy())


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
def test_moving_ranges_follow_as_torchs_do():
    from torch.ao.quantization import MovingAverageMinMaxObserver

    observer = MovingAverageMinMaxObserver(averaging_constant=0.1)
    batches = np.asarray(jax.random.normal(jax.random.key(1), (4, 6, 7)))
    params, t = {"kernel": jnp.asarray(W)}, at("kernel", quantize_inputs(Affine(8)))
    fn = lambda p, x: x @ p["kernel"]  # noqa: E731
    state = None
    for batch in batches:
        observer(torch.tensor(batch))
        stats = observe(fn, params, [batch], statistics=("min", "max"))
        state = t.init(params, stats=stats) if state is None else moving(state, stats, decay=0.9)
    low, high = state.fixed["kernel"]
    np.testing.assert_allclose(low, observer.min_val.numpy(), rtol=1e-5)
    np.testing.assert_allclose(high, observer.max_val.numpy(), rtol=1e-5)
