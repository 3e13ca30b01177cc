"""The value-side algebra against an explicit softmax, in float64."""

import itertools

import pytest
import torch
from oracle import edited_maps, explicit_maps, output_of, split_heads

from p2p_core.attention import CrossEdit, RowEdit, SelfEdit
from p2p_core.edits import MapEdit
from p2p_core.unet import limit

PIXELS, CHANNELS = 20, 24


def fused(q, k, v):
    q, k, v = split_heads(q), split_heads(k), split_heads(v)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def tensors(rows, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, PIXELS, CHANNELS), (rows, tokens, CHANNELS), (rows, tokens, CHANNELS))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def random_pair(tokens, seed, keep=True):
    generator = torch.Generator().manual_seed(seed)
    inject = torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    kept = torch.randn(tokens, generator=generator, dtype=torch.float64)
    factors = torch.randn(tokens, generator=generator, dtype=torch.float64)
    return MapEdit(inject, kept if keep else torch.zeros_like(kept), factors)


def no_edit(tokens):
    return MapEdit.untouched(tokens, tokens)


def oracle(q, k, v, edits):
    return output_of(edited_maps(explicit_maps(q, k), edits), v)


def assert_is_the_oracles(form, edits, q, k, v):
    """Made whole, or as a difference to what somebody else's replacement gives."""
    cross = CrossEdit.of(edits, len(q), torch.device("cpu"))
    assert cross is not None
    result = (
        cross.attend(fused, q, k, v)
        if form == "attend"
        else cross.adjust(fused(q, k, v), fused, q, k, v)
    )
    expected = oracle(q, k, v, edits)
    assert (result - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("tokens", [1, 7, 77, 154])
@pytest.mark.parametrize("layout", ["one edit", "batch of sources", "some untouched", "both kinds"])
@pytest.mark.parametrize("form", ["attend", "adjust"])
def test_edited_attention_equals_explicit_maps(tokens, layout, form):
    full, injected = random_pair(tokens, 1), random_pair(tokens, 2, keep=False)
    untouched = no_edit(tokens)
    rows, edits = {
        "one edit": (2, [RowEdit(1, 0, full)]),
        "batch of sources": (6, [RowEdit(row, row - 2, full) for row in (2, 3)]),
        "some untouched": (5, [RowEdit(1, 0, untouched), RowEdit(4, 3, injected)]),
        "both kinds": (6, [RowEdit(3, 2, injected), RowEdit(4, 2, full), RowEdit(5, 2, injected)]),
    }[layout]
    q, k, v = tensors(rows, tokens)
    assert_is_the_oracles(form, edits, q, k, v)


@pytest.mark.parametrize("form", ["attend", "adjust"])
@pytest.mark.parametrize("keep", [True, False])
def test_renormalised_rows_sum_to_what_they_did_without_factors(form, keep):
    """Beside a row that is not renormalised, and one that no edit touches."""
    pairs = [random_pair(7, seed, keep) for seed in (1, 2)]
    first, second = (MapEdit(m.inject.abs(), m.keep.abs(), m.equalizer.abs()) for m in pairs)
    edits = [
        RowEdit(2, 0, first, renormalised=True),
        RowEdit(3, 1, second),
        RowEdit(5, 4, second, renormalised=True),
    ]
    q, k, v = tensors(6, 7)
    assert_is_the_oracles(form, edits, q, k, v)


def test_a_renormalised_factor_is_a_logarithm_added_before_the_softmax():
    """At factors from none to much; `Reweight` alone holds the source's attention."""
    q, k, v = tensors(2, 5)
    factors = torch.tensor([1.0, 0.0, 0.3, 4.0, 1.0], dtype=torch.float64)
    held = no_edit(5).holding(torch.eye(5).double(), torch.ones(5).double())
    edits = [RowEdit(1, 0, held.equalized(factors), renormalised=True)]
    cross = CrossEdit.of(edits, 2, torch.device("cpu"))
    assert cross is not None
    logits = split_heads(q[:1]) @ split_heads(k[:1]).mT * split_heads(q).shape[-1] ** -0.5
    expected = output_of((logits + factors.log()).softmax(-1), v[1:])
    ours = cross.attend(fused, q, k, v)
    assert (ours[1:] - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert torch.equal(ours[:1], fused(q, k, v)[:1])


def test_renormalising_what_has_no_factor_makes_no_more_calls():
    q, k, v = tensors(2, 7)
    pair = no_edit(7).holding(torch.eye(7).double(), torch.ones(7).double())
    calls = []

    def counted(*args):
        calls.append(args)
        return fused(*args)

    cross = CrossEdit.of([RowEdit(1, 0, pair, renormalised=True)], 2, torch.device("cpu"))
    assert cross is not None
    cross.attend(counted, q, k, v)
    assert len(calls) == 1


def test_untouched_edits_make_no_calls():
    pair = MapEdit.untouched(7, 7)
    assert CrossEdit.of([RowEdit(1, 0, pair)], 2, torch.device("cpu")) is None


def test_rows_that_no_edit_touches_get_plain_attention():
    q, k, v = tensors(4, 7)
    cross = CrossEdit.of([RowEdit(3, 2, random_pair(7, 3))], 4, torch.device("cpu"))
    assert cross is not None
    plain = fused(q, k, v)
    assert torch.equal(cross.attend(fused, q, k, v)[:3], plain[:3])


def test_inputs_are_not_changed():
    q, k, v = tensors(2, 7)
    copies = [t.clone() for t in (q, k, v)]
    output = fused(q, k, v)
    kept = output.clone()
    cross = CrossEdit.of([RowEdit(1, 0, random_pair(7, 3))], 2, torch.device("cpu"))
    assert cross is not None
    cross.attend(fused, q, k, v)
    cross.adjust(output, fused, q, k, v)
    assert all(torch.equal(a, b) for a, b in zip((q, k, v, output), (*copies, kept), strict=True))


@pytest.mark.parametrize(("source", "edited"), list(itertools.product((1, 2, 3), (1, 2, 3))))
def test_tiled_pair_edits_repeated_prompts_as_the_pair_edits_the_prompts(source, edited):
    """Hosts repeat a shorter prompt's tokens to the longer one's length."""
    source_tokens, edited_tokens = 6 // source, 6 // edited
    generator = torch.Generator().manual_seed(4)
    q, k, v = tensors(2, 6)
    inject = torch.randn(source_tokens, edited_tokens, generator=generator, dtype=torch.float64)
    keep, factors = torch.randn(2, edited_tokens, generator=generator, dtype=torch.float64)
    pair = MapEdit(inject, keep, factors)
    k_source, k_edited, v_edited = (
        k[:1, :source_tokens],
        k[1:, :edited_tokens],
        v[1:, :edited_tokens],
    )
    maps = explicit_maps(q[:1], k_source) @ inject + explicit_maps(q[1:], k_edited) * keep
    maps = maps * factors
    expected = output_of(maps, v_edited)
    k = torch.cat([k_source.repeat(1, source, 1), k_edited.repeat(1, edited, 1)])
    v = torch.cat([v[:1], v_edited.repeat(1, edited, 1)])
    cross = CrossEdit.of([RowEdit(1, 0, pair.tiled(source, edited))], 2, torch.device("cpu"))
    assert cross is not None
    assert torch.allclose(cross.attend(fused, q, k, v)[1:], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_word_swap_equals_the_papers_definition(alpha):
    """Edit = α · (M_src mapper) + (1 − α) · M_edit on governed tokens, M_edit elsewhere."""
    tokens = 9
    q, k, v = tensors(2, tokens)
    generator = torch.Generator().manual_seed(5)
    mapper = torch.rand(tokens, tokens, generator=generator, dtype=torch.float64)
    held = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.float64)
    pair = no_edit(tokens).holding(mapper, alpha * held)
    maps = explicit_maps(q, k)
    per_token = alpha * held
    edited = per_token * (maps[0] @ mapper) + (1 - per_token) * maps[1]
    cross = CrossEdit.of([RowEdit(1, 0, pair)], 2, torch.device("cpu"))
    result = fused(q, k, v) if cross is None else cross.attend(fused, q, k, v)
    assert torch.allclose(result[1:], output_of(edited[None], v[1:]), rtol=1e-10, atol=1e-12)


def test_two_swaps_compose_as_two_edits_in_a_row():
    """new = edit₂(M_src, edit₁(M_src, M_edit))."""
    tokens = 5
    q, k, v = tensors(2, tokens)
    generator = torch.Generator().manual_seed(6)
    mapper = torch.rand(tokens, tokens, generator=generator, dtype=torch.float64)
    first, second = torch.tensor([[1.0, 0, 1, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.float64)
    maps = explicit_maps(q, k)
    once = 0.6 * first * (maps[0] @ mapper) + (1 - 0.6 * first) * maps[1]
    twice = 0.9 * second * (maps[0] @ mapper) + (1 - 0.9 * second) * once
    pair = no_edit(tokens).holding(mapper, 0.6 * first).holding(mapper, 0.9 * second)
    cross = CrossEdit.of([RowEdit(1, 0, pair)], 2, torch.device("cpu"))
    assert cross is not None
    result = cross.attend(fused, q, k, v)
    assert torch.allclose(result[1:], output_of(twice[None], v[1:]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("latent", [16 * 16, 16 * 64, 64 * 64, 96 * 128])
def test_automatic_reach_is_a_count_of_cells(latent):
    """The authors' rule, keys ≤ 32², whatever the latent's size or shape."""
    edit = SelfEdit.of([(1, 0, limit(None, latent))], 2, torch.device("cpu"))
    assert edit is not None
    assert edit.gather(32**2).tolist() == [0, 0]
    assert edit.gather(32**2 + 1) is None


def test_each_row_of_a_call_has_its_own_reaches():
    """Row 2 has two, of which the further counts; 64×64 latents."""
    reaches = [(1, 0, 0.25), (2, 0, None), (2, 0, 1.0), (3, 0, None)]
    limits = [(row, source, limit(reach, 64**2)) for row, source, reach in reaches]
    edit = SelfEdit.of(limits, 4, torch.device("cpu"))
    assert edit is not None
    assert edit.gather(16**2).tolist() == [0, 0, 0, 0]
    assert edit.gather(32**2).tolist() == [0, 1, 0, 0]
    assert edit.gather(64**2).tolist() == [0, 1, 0, 3]
