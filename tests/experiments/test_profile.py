import json
import textwrap

import pytest

from efficient.core.measure import DeviceProfile
from efficient.models import zoo
from experiments import profile

TOTALS = ["macs", "params", "stored_bytes", "peak_activation_bytes", "predicted_ms", "measured_ms"]


@pytest.fixture(autouse=True)
def paper_device(monkeypatch):
    """A device that need not be measured, and a terminal of 80 columns."""
    device = DeviceProfile(name="paper", peak_flops=1e9, bandwidth=1e9)
    monkeypatch.setattr(profile, "calibrate", lambda: device)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(capsys):
    def call(*argv):
        code = profile.main(["profile", *argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        textwrap.dedent(
            """
            import flax.linen as nn
            import jax
            import jax.numpy as jnp
            from flax import nnx

            shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)

            def function():
                return (lambda w, x: x @ w), {"w": shape(5, 7)}["w"], (shape(2, 5),)

            def linen():
                return nn.Dense(7), shape(1, 5)

            def with_nnx():
                return nnx.Linear(5, 7, rngs=nnx.Rngs(0)), jnp.ones((1, 5))

            def loop():
                fn = lambda w, x: jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ w, x)
                return fn, shape(5, 5), (shape(2, 5),)

            def nothing():
                return None

            def broken():
                return (lambda w, x: x @ w), shape(3, 7), (shape(2, 5),)

            def failing():
                raise KeyError("weights")
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_json_has_exactly_the_totals_and_the_layers(run):
    code, out, err = run("--model=lab_vgg", "--dtype=int8", "--json", "--nomeasure")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == [*TOTALS, "layers"]
    assert [found[name] for name in TOTALS[:4]] == [605_754_368, 9_228_362, 4 * 9_228_362, 196_608]
    assert found["measured_ms"] is None
    for name in ("macs", "params", "stored_bytes", "predicted_ms"):
        assert sum(layer[name] for layer in found["layers"]) == pytest.approx(found[name])
    # 2 FLOPs a MAC at 1 GFLOP/s is a lower bound of the roofline
    assert found["predicted_ms"] >= 2 * found["macs"] / 1e9 * 1e3


def test_options_convention_and_in_place(run):
    code, out, _ = run(
        "--model=mobilenet_v2",
        "--width=0.35",
        "--resolution=144",
        "--options=head=scale",
        "--convention=torchprofile",
        "--dtype=int8",
        "--in_place_depthwise",
        "--nomeasure",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert (found["params"], found["peak_activation_bytes"]) == (750_280, 290_304)
    assert found["macs"] > 23_499_152  # norms and the pool are charged


def test_tables_fit_80_columns_and_set_predicted_beside_measured(run):
    code, out, err = run("--model=lenet5", "--batch=2", "--repeats=2")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for name in TOTALS:
        assert name in out
    assert "4,586,000" in out  # twice 2,293,000
    assert "median of 2" in out


def test_deep_models_are_merged_into_few_rows(run):
    _, out, _ = run("--model=vit_tiny", "--options=depth=3", "--nomeasure", "--convention=matmul")
    assert max(map(len, out.splitlines())) <= 80
    assert "layer2" in out
    assert "layer2/" in out  # each layer's parts have rows of their own
    _, short, _ = run("--model=vit_tiny", "--options=depth=3", "--nomeasure", "--rows=4")
    assert "others" in short


def test_merged_rows_keep_the_sums():
    rows = [profile.Row(f"params/block{i}/{part}", i, 2 * i, 8 * i, 0.5) for i in range(9) for part in "ab"]
    for most in (1, 4, 9, 18, 40):
        found = profile.merged(rows, most)
        assert len(found) <= most
        assert [sum(row[i] for row in found) for i in range(1, 5)] == [72, 144, 576, 9.0]
    assert [row.name for row in profile.merged(rows, 9)] == [f"block{i}" for i in range(9)]
    assert [row.name for row in profile.merged(rows, 3)] == ["7 others", "block7", "block8"]
    assert profile.merged(rows, 18)[0] == profile.Row("block0/a", 0, 0, 0, 0.5)


def test_list_names_the_zoo(run):
    code, out, _ = run("--list")
    assert code == 0
    assert all(name in out for name in zoo.ZOO)


@pytest.mark.parametrize(("name", "macs"), [("function", 70), ("linen", 35), ("with_nnx", 35)])
def test_models_of_ones_own(run, own_models, name, macs):
    code, out, _ = run(f"--model=own_models:{name}", "--json", "--repeats=1")
    found = json.loads(out)
    assert (code, found["macs"]) == (0, macs)
    assert found["measured_ms"] > 0


def test_assumptions_are_printed(run, own_models):
    _, out, _ = run("--model=own_models:loop", "--nomeasure")
    assert "note: while at the top: trip count unknown, counted once" in out


def test_help_shows_the_commands_and_every_flag(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "python -m experiments.profile --model=" in out
    assert "--resolution: side of the image" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle=lenet5"], "--modle; did you mean --model?"),
        (["--convention=torchprofil"], "did you mean 'torchprofile'?"),
        (["--model=mobilnet_v2"], "got 'mobilnet_v2'; did you mean 'mobilenet_v2'"),
        (["--model=qqq"], "model must be a name of the zoo or module:function, got 'qqq'; see --list."),
        (
            ["--model=lenet5", "--width=0.5"],
            "options of lenet5 must be among ['resolution', 'classes'], got 'width'",
        ),
        (
            ["--model=lenet5", "--options=classes"],
            "options must be name=value with commas between, got 'classes'",
        ),
        (["--model=lenet5", "--options=classes=few"], "options must be values that lenet5 takes"),
        (["--batch=0"], "batch must be at least 1, got 0; see --help."),
        (["--rows=0"], "rows must be at least 1, got 0"),
        (
            ["--model=no_such_module:build"],
            "model must name a module that can be imported, got 'no_such_module:build'",
        ),
        (
            ["--model=own_models:functio"],
            "model must name a function of own_models, got 'functio'; did you mean 'function'",
        ),
        (
            ["--model=own_models:nothing"],
            "own_models:nothing must return (fn, params, args) or (Flax module, example",
        ),
        (
            ["--model=own_models:function", "--batch=2"],
            "batch must be 1 for a function with its own arguments, got 2",
        ),
        (["--model=own_models:function", "--width=2"], "width, resolution and options must be left out"),
        (["--model=own_models:broken"], "model must build and trace, got TypeError: dot_general"),
        (["--model=own_models:failing"], "model must build and trace, got KeyError: 'weights'"),
    ],
)
def test_errors_come_without_traceback(run, own_models, argv, message):
    code, out, err = run(*argv)
    assert code == profile.USAGE
    assert out == ""
    assert message in err
    assert "Traceback" not in err
