"""Every form against a loop in float64, and what is fitted to which items."""

import faiss
import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.tables.table import EmbeddingTable
from downstream.data.ctr_data import load_ctr_data
from downstream.forms.cluster_id import ClusterID, cluster_codes
from downstream.forms.make import Make
from downstream.forms.registry import FORMS
from downstream.forms.simtier import SimTier
from downstream.images.features import TunedTable
from downstream.images.joined import ItemImages, join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


@pytest.fixture(scope="module")
def table(small_world):
    return EmbeddingTable(small_world.table.ids[3:], small_world.table.vectors[3:])


@pytest.fixture
def batch(data):
    return {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:40]).items()}


def built(data, table, **image):
    torch.manual_seed(0)
    return build_model(data, join_table(table, data), ModelSettings(), ImageSettings(**image))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def shown_and_clicked(batch):
    """Rows of the items: the shown one and the list of clicked ones, of each impression."""
    for target, history, mask in zip(batch["target"], batch["history"], batch["mask"], strict=True):
        yield int(batch["row"][target]), [int(item) for item in batch["row"][history[mask]]]


@pytest.mark.parametrize("bins", [20, 7])
def test_simtier_counts_cosines_in_equal_bins(data, batch, table, bins):
    form = built(data, table, form="simtier", simtier=SimTier.Settings(bins)).images
    with torch.no_grad():
        form.weight.copy_(torch.linspace(-1, 2, bins))
        form.no_image.fill_(7.0)
    vectors, found = table.lookup(data.item_ids)
    features = form(batch, None).detach().numpy()
    assert features.shape == (40, form.width)
    edges = np.linspace(-1, 1, bins + 1)
    for row, (target, clicked) in enumerate(shown_and_clicked(batch)):
        if not found[target]:
            np.testing.assert_array_equal(features[row], 7.0)
            continue
        a = vectors[target].astype(np.float64)
        others = [vectors[item].astype(np.float64) for item in clicked if found[item]]
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for b in others]
        expected = np.log(1 + np.histogram(cosines, edges)[0]) * np.linspace(-1, 2, bins)
        np.testing.assert_allclose(features[row], expected, atol=1e-6)
    assert (~found).any()


def test_the_most_alike_fall_into_the_last_bin(data, batch, table):
    one = EmbeddingTable(table.ids, np.ones_like(table.vectors))
    counts = built(data, one, form="simtier").images.counts(batch).numpy()
    assert counts[:, -1].any() and not counts[:, :-1].any()


def planted_groups(data, groups=6, noise=0.05):
    """Unit vectors around a few directions; items first shown at test time lie along others of their own."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    group = np.where(data.warm, np.arange(len(data.warm)) % groups, groups + np.arange(len(data.warm)) % 3)
    vectors = directions[group] + noise * rng.normal(size=(len(group), 16)).astype(np.float32)
    return ItemImages(vectors, np.ones(len(group), dtype=bool), data.warm), group


def test_clusters_are_those_of_training_items_and_new_items_get_the_nearest(data):
    images, group = planted_groups(data)
    codes, counts = cluster_codes(images, (6,), 1, seed=0)
    assert codes.shape == (len(group), 1) and counts == [8]
    vectors = unit(images.vectors.astype(np.float64))
    # Each centre is the normalised sum of its training items alone; every item has the centre of highest cosine.
    used = np.unique(codes[data.warm])
    centres = unit(np.stack([vectors[data.warm & (codes[:, 0] == code)].sum(axis=0) for code in used]))
    np.testing.assert_array_equal(used[(vectors @ centres.T).argmax(axis=1)], codes[:, 0])
    # As many clusters as planted groups: the new items' directions were given none.
    for own in range(6):
        assert len(np.unique(codes[data.warm & (group == own)])) == 1
    assert len(used) == 6 and (~data.warm).any()


@pytest.mark.parametrize("levels", [1, 3])
def test_new_items_do_not_move_a_cluster_and_the_seed_decides(data, levels):
    images, _ = planted_groups(data, noise=0.5)
    elsewhere = np.where(data.warm[:, None], images.vectors, 100 * images.vectors[::-1])
    moved = ItemImages(elsewhere.astype(np.float32), images.found, images.warm)
    first, again, other = (cluster_codes(images, (6, 3), levels, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first[data.warm], cluster_codes(moved, (6, 3), levels, 0)[0][data.warm])
    assert first.shape[1] == 2 * levels


def test_residual_codes_cluster_what_the_level_before_left_over(data):
    images, _ = planted_groups(data, noise=0.5)
    codes, _ = cluster_codes(images, (4,), 3, seed=0)
    left = unit(images.vectors.astype(np.float64))
    for column in codes.T:
        used = np.unique(column[data.warm])
        centres = np.stack([left[data.warm & (column == code)].mean(axis=0) for code in used])
        distance = np.square(left[:, None] - centres).sum(axis=-1)
        np.testing.assert_array_equal(used[distance.argmin(axis=1)], column)
        before = np.square(left[data.warm]).sum()
        left -= centres[distance.argmin(axis=1)]
        assert np.square(left[data.warm]).sum() < before


def test_items_without_a_vector_have_a_code_of_their_own(data, table):
    images = join_table(table, data)
    codes, _ = cluster_codes(images, (5,), 1, seed=0)
    np.testing.assert_array_equal(codes[:, 0] == 1, ~images.found)
    assert codes.min() == 1


def test_a_gpu_is_used_where_faiss_has_one(data, monkeypatch):
    asked = {}
    kmeans = faiss.Kmeans
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "Kmeans", lambda *a, gpu, **k: asked.update(gpu=gpu) or kmeans(*a, **k))
    cluster_codes(planted_groups(data)[0], (4,), 1, seed=0)
    assert asked["gpu"]


@pytest.mark.parametrize("switches", [{}, {"ad_image": False}, {"behaviour_images": False}])
def test_cluster_features_equal_a_loop(data, batch, table, switches):
    image = {"form": "cluster_id", "aggregator": "sum", "cluster_id": ClusterID.Settings((5, 3)), "size": 4}
    model = built(data, table, **image, **switches)
    form = model.images.double()
    codes = form.codes.numpy()
    weights = [embedding.weight.detach().numpy() for embedding in form.embeddings]

    def embedded(item):
        return np.concatenate([weight[code] for weight, code in zip(weights, codes[item], strict=True)])

    features = form(batch, None).detach().numpy()
    for row, (target, clicked) in enumerate(shown_and_clicked(batch)):
        expected = []
        if switches.get("ad_image", True):
            expected.append(embedded(target))
        if switches.get("behaviour_images", True):
            expected.append(sum((embedded(item) for item in clicked), np.zeros(8)))
        np.testing.assert_allclose(features[row], np.concatenate(expected), atol=1e-12)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if "centre" in form.uses])
def test_a_centred_form_is_that_of_a_table_centred_by_hand(data, batch, table, form):
    cone = EmbeddingTable(table.ids, unit(table.vectors) + 5 * np.eye(1, table.vectors.shape[1], dtype=np.float32))
    vectors, found = cone.lookup(data.item_ids)
    directions = np.zeros(vectors.shape)
    directions[found] = unit(vectors[found].astype(np.float64))
    by_hand = directions - directions[found & data.warm].mean(axis=0)
    apart = EmbeddingTable([data.item_ids[row] for row in np.flatnonzero(found)], by_hand[found].astype(np.float32))
    centred = built(data, cone, form=form, centre=True)(batch)
    torch.testing.assert_close(centred, built(data, apart, form=form)(batch), atol=1e-4, rtol=1e-3)
    assert (centred - built(data, cone, form=form)(batch)).abs().max() > 1e-3


def test_new_items_do_not_move_the_centre(data):
    images, _ = planted_groups(data)
    elsewhere = np.where(data.warm[:, None], images.vectors, -images.vectors)
    moved = ItemImages(elsewhere, images.found, images.warm).centred()
    np.testing.assert_array_equal(moved.vectors[data.warm], images.centred().vectors[data.warm])
    np.testing.assert_allclose(moved.fitted.mean(axis=0), 0, atol=1e-6)


def test_forms_side_by_side_give_what_each_gives(data, batch, table):
    simtier, make = SimTier.Settings(bins=7), Make.Settings(hidden=(9, 5))
    form = built(data, table, form="simtier_make", simtier=simtier, make=make).images
    options = {"simtier": simtier, "make": make}
    alone = [built(data, table, form=name, **{name: own}).images for name, own in options.items()]
    for part, own in zip(form.forms, alone, strict=True):
        own.load_state_dict(part.state_dict())
    expected = torch.cat([own(batch, None) for own in alone], dim=-1)
    assert form.width == expected.shape[1] == 7 + 9 + 5 + 1
    torch.testing.assert_close(form(batch, None), expected, atol=0, rtol=0)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if "tune" in form.uses])
def test_a_tuned_table_starts_as_the_table(data, batch, table, form):
    frozen, tuned = (built(data, table, form=form, tune=tune) for tune in ("frozen", "table"))
    torch.testing.assert_close(frozen(batch), tuned(batch), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if "tune" in form.uses])
def test_a_tuned_table_learns_the_items_it_meets_and_keeps_the_others(data, table, form):
    image = ImageSettings(form=form, tune="table", lr=1e-2)
    settings = TrainingSettings(data.settings, image=image, optim=OptimSettings(batch_size=64))
    result = fit(data, table, settings, 0)
    (name,) = [name for name in result.state if name.endswith("features.weight")]
    start = TunedTable(join_table(table, data)).weight.detach()
    moved = (result.state[name] != start).any(dim=1).numpy()
    found = table.lookup(data.item_ids)[1]
    last = data.rows["train"].max()
    clicked = data.item[:last][data.click[:last] == 1]
    assert not moved[~data.warm].any() and not moved[~found].any()
    assert moved[np.intersect1d(clicked, np.flatnonzero(found))].all()
    still = fit(data, table, TrainingSettings(data.settings, image=ImageSettings(form=form, tune="table", lr=1e-9)), 0)
    torch.testing.assert_close(still.state[name], start, atol=1e-5, rtol=0)


def test_contradictions_are_named():
    for form in ("simtier", "cluster_id"):
        with pytest.raises(UserError, match=r"no gradient .*one of the forms simscore, vector"):
            TrainingSettings(image=ImageSettings(form=form, tune="table"))
    with pytest.raises(UserError, match="tune is 'all'; choose one of frozen, table, encoder"):
        ImageSettings(tune="all")
    with pytest.raises(UserError, match=r"image.lr is 0.1, but image.tune is 'frozen'"):
        ImageSettings(lr=0.1)
    with pytest.raises(UserError, match=r"image\.ad_image is False, but form 'simscore' does not use it"):
        TrainingSettings(image=ImageSettings(form="simscore", ad_image=False))
    with pytest.raises(UserError, match=r"image\.centre is True, but form 'make' does not use it"):
        TrainingSettings(image=ImageSettings(form="make", centre=True))
    with pytest.raises(UserError, match="fixed mean"):
        ImageSettings(form="simscore", tune="encoder", centre=True)
    with pytest.raises(UserError, match="bins is 1; must be >= 2"):
        SimTier.Settings(bins=1)
    with pytest.raises(UserError, match=r"clusters is .*each must be >= 2"):
        ClusterID.Settings(clusters=(1,))
