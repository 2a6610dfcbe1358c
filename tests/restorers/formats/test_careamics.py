"""Checkpoints and packages of CAREamics, real and small ones, give the expected intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import SelfEnsemble, open_restorer, with_channel_axis
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.formats.careamics import CAREamicsUNet, UNetSettings
from napari_ensir.restorers.networks.tiling import Tiles
from tests.helpers.careamics_files import as_saved, configuration, network_of, write_checkpoint, write_package
from tests.helpers.paths import DATA

REAL = DATA / "careamics"


def psnr(image, truth):
    return 10 * np.log10(float(np.ptp(truth)) ** 2 / np.mean((image.astype(float) - truth) ** 2))


@pytest.mark.parametrize(
    ("name", "said", "axis"),
    [
        ("care_small.zip", "CARE, care_small", None),
        ("care_residual_3d.ckpt", "CARE, care_residual_3d", None),
        ("n2v2_2_channels.ckpt", "N2V2, n2v2_2_channels", 0),
        ("n2v_0.1.ckpt", "N2V, n2v_0.1", None),
        ("n2n_without_norm.zip", "N2N, n2n_without_norm", None),
        ("n2v2_3d.zip", "N2V2, n2v2_3d", None),
    ],
)
def test_real_files_give_the_predictions_of_careamics(name, said, axis):
    expected = np.load(REAL / f"{name.rpartition('.')[0]}_expected.npz")
    restorer = with_channel_axis(open_restorer(REAL / name, device="cpu"), axis)
    assert restorer.name == said
    restored = restorer(expected["input"])
    np.testing.assert_allclose(restored, expected["prediction"], atol=1e-4 * np.ptp(expected["prediction"]))


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("care_joint_0.3.0.ckpt", 0),
        ("n2n_2_channels_0.2.ckpt", 0),
        ("care_quantile_0.2.ckpt", None),
        ("care_joint_0.0.22.ckpt", 0),
    ],
)
def test_real_files_of_old_versions_are_denormalised_as_the_target(name, axis):
    """CAREamics before 0.3.4 denormalised as the input; the values of the network are the same."""
    expected = np.load(REAL / f"{name.rpartition('.')[0]}_expected.npz")
    restorer = with_channel_axis(open_restorer(REAL / name, device="cpu"), axis)
    theirs = torch.from_numpy(expected["prediction"]).reshape(restorer.channels, 40, 56)
    wanted = restorer.after(restorer.before(theirs)).numpy().reshape(expected["input"].shape)
    np.testing.assert_allclose(restorer(expected["input"]), wanted, atol=1e-4 * np.ptp(wanted))


@pytest.fixture
def reference(reference_folder):
    folder = reference_folder / "careamics"
    if not folder.is_dir():
        pytest.skip("the reference data contain no files of CAREamics")
    return folder


@pytest.mark.parametrize("name", ["n2v.zip", "care.zip", "n2v2.zip", "care_step56.ckpt"])
def test_the_reference_files_give_the_predictions_of_careamics(reference, name):
    tissue = np.load(reference / "tissue.npz")
    found = np.load(reference / f"{name.partition('.')[0].partition('_')[0]}_expected.npz")
    noisy = found["input"] if "input" in found else tissue["noisy"]
    restored = open_restorer(reference / name, device="cpu")(noisy)
    expected = found["prediction"].reshape(noisy.shape)
    assert np.median(np.abs(restored - expected)) < 1e-3 * np.ptp(expected)
    if "input" not in found:
        assert abs(psnr(restored, tissue["truth"]) - psnr(expected, tissue["truth"])) < 0.02


def expected_result(network: CAREamicsUNet, image: np.ndarray) -> np.ndarray:
    """The expected result for one channel with the statistics of `careamics_files`, from the formulas."""
    x = torch.from_numpy(image).float()[None, None]
    with torch.no_grad():
        y = network((x - 100) / (20 + 1e-6))
    return (y * (4 + 1e-6) + 50)[0, 0].numpy()


@pytest.mark.parametrize("layout", ["0.1", "0.3", "package"])
@pytest.mark.parametrize(
    "settings", [{}, {"n2v2": True}, {"use_batch_norm": False, "residual": True, "depth": 1}]
)
def test_the_output_is_denormalised_as_the_target(tmp_path, layout, settings):
    network = network_of(**settings)
    image = np.random.default_rng(0).normal(100, 20, (32, 48))
    if layout == "package":  # whose rdf.yaml states otherwise
        path = write_package(tmp_path / "a.zip", network, configuration(network))
    else:
        path = write_checkpoint(tmp_path / "a.ckpt", network, configuration(network), layout)
    restorer = open_restorer(path, device="cpu")
    np.testing.assert_allclose(restorer(image), expected_result(network, image), rtol=1e-4, atol=1e-3)
    assert restorer.scale == 1


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ({"name": "none"}, (0, 1, 0, 1)),
        ({"name": "mean_std", "input_means": 3, "input_stds": 2}, (3, 2, 3, 2)),
        ({"name": "mean_std", "input_means": [3], "input_stds": [2], "skip_target": True}, (3, 2, 0, 1)),
        ({"name": "min_max", "input_mins": [1], "input_maxes": [5]}, (1, 4, 1, 4)),
        (
            {"name": "quantile", "input_lower_quantile_values": [1], "input_upper_quantile_values": [5]}
            | {"target_lower_quantile_values": [2], "target_upper_quantile_values": [8]},
            (1, 4, 2, 6),
        ),
    ],
)
def test_every_kind_of_normalisation(tmp_path, statistics, expected):
    network = network_of(depth=1)
    config = configuration(network)
    config["data_config"]["normalization"] = statistics
    image = np.random.default_rng(0).normal(3, 2, (16, 16)).astype(np.float32)
    zero, unit, back_zero, back_unit = expected
    with torch.no_grad():
        y = network(torch.from_numpy((image - zero) / unit)[None, None])[0, 0].numpy() * back_unit + back_zero
    restored = open_restorer(write_checkpoint(tmp_path / "a.ckpt", network, config), device="cpu")(image)
    np.testing.assert_allclose(restored, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("n2v2", [False, True])
def test_independent_channels_are_separate_networks(ndim, n2v2):
    both = network_of(conv_dims=ndim, in_channels=2, num_classes=2, n2v2=n2v2)
    x = torch.rand(1, 2, *[16] * ndim)
    with torch.no_grad():
        expected = both(x)
        for channel in range(2):
            alone = CAREamicsUNet(UNetSettings(num_channels_init=8, conv_dims=ndim, n2v2=n2v2)).eval()
            half = {}
            for name, each in alone.state_dict().items():
                given = both.state_dict()[name]
                half[name] = given if given.shape == each.shape == () else given.chunk(2)[channel]
            alone.load_state_dict(half)
            torch.testing.assert_close(alone(x[:, [channel]]), expected[:, [channel]], rtol=1e-3, atol=1e-3)


def test_planes_volumes_and_channels(tmp_path):
    rng = np.random.default_rng(0)
    network = network_of()
    restorer = open_restorer(
        write_checkpoint(tmp_path / "a.ckpt", network, configuration(network)), device="cpu"
    )
    stack = rng.normal(100, 20, (3, 20, 24))  # restored plane by plane, and channel by channel
    planes = np.stack([restorer(plane) for plane in stack])
    np.testing.assert_allclose(restorer(stack), planes, rtol=1e-5)
    np.testing.assert_allclose(with_channel_axis(restorer, 0)(stack), planes, rtol=1e-5)
    assert SelfEnsemble(restorer=restorer)(stack[0]).shape == (20, 24)

    deep = network_of(conv_dims=3, depth=1)
    volumes = open_restorer(write_checkpoint(tmp_path / "b.ckpt", deep, configuration(deep)), device="cpu")
    volume = rng.normal(100, 20, (2, 8, 16, 16))
    np.testing.assert_allclose(volumes(volume)[1], expected_result(deep, volume[1]), rtol=1e-4, atol=1e-3)
    with pytest.raises(EnsembleError, match="takes volumes"):
        volumes(volume[0, 0])


def test_tiles_give_the_same_as_the_whole_volume(tmp_path):
    network = network_of(conv_dims=3, depth=1)
    restorer = open_restorer(
        write_checkpoint(tmp_path / "a.ckpt", network, configuration(network)), device="cpu"
    )
    volume = np.random.default_rng(0).normal(100, 20, (10, 70, 40))
    whole = with_settings(restorer, tiles=Tiles(size=70, overlap=0))(volume)
    tiled = with_settings(restorer, tiles=Tiles(size=48, overlap=24, margin=12, batch=1))(volume)
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=0.01)


def test_the_data_range_has_no_effect(tmp_path):
    network = network_of(depth=1)
    restorer = open_restorer(
        write_checkpoint(tmp_path / "a.ckpt", network, configuration(network)), device="cpu"
    )
    image = np.random.default_rng(0).normal(100, 20, (16, 16))
    np.testing.assert_array_equal(with_settings(restorer, data_range=(0.0, 255.0))(image), restorer(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config["algorithm_config"].update(algorithm="microsplit"),
            "trained with 'microsplit'",
        ),
        (
            lambda config: config["algorithm_config"]["model"].update(architecture="LVAE"),
            "another network than",
        ),
        (lambda config: config["algorithm_config"]["model"].update(attention=True), "unknown: attention"),
        (lambda config: config["algorithm_config"]["model"].update(depth=3), "do not match the settings"),
        (
            lambda config: config["algorithm_config"]["model"].update(depth=10**9),
            "are not valid settings of CAREamics' U-Net",
        ),
        (lambda config: config["algorithm_config"]["model"].update(num_channels_init=16), "are needed"),
        (lambda config: config["algorithm_config"]["model"].update(num_classes=2), "1 channels into 2"),
        (lambda config: config["algorithm_config"]["model"].update(final_activation="Tanh"), "'Tanh'"),
        (lambda config: config["algorithm_config"].pop("model"), "contains no network"),
        (lambda config: config["data_config"]["normalization"].update(name="rank"), "normalises by 'rank'"),
        (
            lambda config: config["data_config"]["normalization"].update(input_means=None),
            "one finite number is needed",
        ),
        (
            lambda config: config["data_config"]["normalization"].update(input_stds=[0, 1]),
            "one finite number is needed",
        ),
        (
            lambda config: config["data_config"]["normalization"].update(input_stds=["many"]),
            "numbers are needed",
        ),
        (
            lambda config: config["data_config"]["normalization"].update(input_means=["nan"]),
            "one finite number is needed",
        ),
        (
            lambda config: config["data_config"].update(normalization={"name": "mean_std"}),
            "does not state how",
        ),
        (lambda config: config.pop("data_config"), "contains no normalisation|does not describe a training"),
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "package"])
def test_unsupported_settings_are_refused_in_one_sentence(tmp_path, change, message, kind):
    network = network_of()
    config = configuration(network)
    write = {"checkpoint": write_checkpoint, "package": write_package}[kind]
    path = tmp_path / {"checkpoint": "a.ckpt", "package": "a.zip"}[kind]
    if kind == "checkpoint":
        change(config)
        config.setdefault("data_config", None)
        write(path, network, config)
    else:
        write(
            path, network, configuration(network), lambda rdf, files: apply_change(rdf, files, config, change)
        )
    with pytest.raises(EnsembleError, match=message) as caught:
        open_restorer(path, device="cpu")
    assert "\n" not in str(caught.value)


def apply_change(rdf, files, config, change):
    import yaml

    change(config)
    files["careamics.yaml"] = yaml.safe_dump(config).encode()
    rdf["weights"]["pytorch_state_dict"]["architecture"].pop("kwargs")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda t: t | {"final_conv.bias": torch.full((1,), torch.nan)}, "NaN"),
        (lambda t: t | {"final_conv.bias": torch.zeros(2)}, "are needed"),
        (
            lambda t: t | {"final_conv.weight": torch.zeros(1).expand(1, 8, 1, 1)},
            "more values than it contains",
        ),
        (lambda t: t | {"more": torch.zeros(1)}, "missing or unknown"),
        (lambda t: t | {"final_conv.bias": torch.zeros(1).to_sparse()}, "weights that are not plain tensors"),
        (lambda t: {}, "missing or unknown"),
    ],
)
def test_weights_that_do_not_match_are_refused(tmp_path, tensors, message):
    network = network_of()
    state = {f"model.{name}": each for name, each in tensors(as_saved(network)).items()}
    path = write_checkpoint(
        tmp_path / "a.ckpt", network, configuration(network), change={"state_dict": state}
    )
    with pytest.raises(EnsembleError, match=message):
        open_restorer(path, device="cpu")
