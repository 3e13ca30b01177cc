"""Every edit, planned from words, against explicit attention maps written from the paper.

And against the formulas of the authors' released code, encoded here once more.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from edited import SOURCE, agrees, edited_outputs, source_column, tokens
from hypothesis import given
from hypothesis import strategies as st
from oracle import output_of
from text_tokenizers import chunks_of_three, reader

from p2p_core.alignment import Draft, revise
from p2p_core.blending import Blending
from p2p_core.controller import Rows, plan
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.local_blend import LocalBlend
from p2p_core.matching import matching
from p2p_core.schedules import Schedule, Window
from p2p_core.tokens import split_words

ALWAYS = Schedule()


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.7])
def test_reweight_alone_is_the_sources_map_times_the_factors(progress):
    """M̂[i, j] = c · M_src[i, j] for the words, M_src[i, j] elsewhere."""
    chain = (Reweight((("fluffy", 2.5), ("wet grass", -1.5))),)
    ours, maps, v, controller = edited_outputs([chain], progress)
    expected = maps[:1].clone()
    expected[..., tokens(controller, "fluffy")] *= 2.5
    expected[..., tokens(controller, "wet grass")] *= -1.5
    agrees(ours, output_of(expected, v[1:]))


def test_refine_keeps_the_sources_columns_and_leaves_new_words_their_own():
    """M̂[i, j] = M_edit[i, j] where A(j) = None, else M_src[i, A(j)]."""
    ours, maps, v, controller = edited_outputs(
        [(Refine("a fluffy striped cat sits on the wet grass", schedule=ALWAYS),)], 0.5
    )
    branch = controller.branches[0]
    expected = maps[:1] @ branch.mapper.double()
    new = tokens(controller, "striped")
    assert not branch.mapper[:, new].any()
    expected[..., new] = maps[1:, ..., new]
    agrees(ours, output_of(expected, v[1:]))
    for word in ("fluffy", "cat", "grass"):
        (column,), (row,) = tokens(controller, word), source_column(controller, word)
        assert branch.mapper[row, column] == 1


@pytest.mark.parametrize("inject", [True, False])
def test_refine_swapped_words_inject_or_attend_for_themselves(inject):
    edited = "a fluffy dog sits on the wet grass"
    ours, maps, v, controller = edited_outputs(
        [(Refine(edited, inject_swapped=inject, schedule=ALWAYS),)], 0.5
    )
    expected = maps[:1].clone()
    dog = tokens(controller, "dog")
    if not inject:
        expected[..., dog] = maps[1:, ..., dog]
    agrees(ours, output_of(expected, v[1:]))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("progress", [0.0, 0.25, 0.45, 0.9])
def test_compositions_in_every_order_with_windows_and_fades(order, progress):
    """Two swaps with windows of their own and a reweighting: α per token, factors inside it."""
    first, second = Window(0.0, 0.4), Window(0.2, 0.8, fade=0.4)
    weights = Window(0.1, 0.5)
    links = (
        WordSwap("cat", "dog", schedule=Schedule(first)),
        WordSwap("wet", "dry", schedule=Schedule(second)),
        Reweight((("fluffy", -2.0), ("grass", 1.5)), Schedule(weights)),
    )
    chain = tuple(links[n] for n in order)
    ours, maps, v, controller = edited_outputs([chain], progress)
    a, b, w = (window.weight(progress) for window in (first, second, weights))
    alpha = torch.full((controller.length,), 1 - (1 - a) * (1 - b), dtype=torch.float64)
    alpha[tokens(controller, "dog")] = a
    alpha[tokens(controller, "dry")] = b
    expected = alpha * maps[:1] + (1 - alpha) * maps[1:]
    expected[..., tokens(controller, "fluffy")] *= 1 + w * (-2.0 - 1)
    expected[..., tokens(controller, "grass")] *= 1 + w * (1.5 - 1)
    agrees(ours, output_of(expected, v[1:]))


def test_one_word_is_injected_and_everything_else_is_not():
    """The paper's figure 5: "grass: 0-1", all other words 0-0.2."""
    schedule = Schedule(Window(0, 0.2), (("grass", Window()),))
    chain = (WordSwap("cat", "dog", schedule=schedule),)
    for progress in (0.1, 0.5):
        ours, maps, v, controller = edited_outputs([chain], progress)
        expected = (maps[:1] if progress < 0.2 else maps[1:]).clone()
        grass = tokens(controller, "grass")
        expected[..., grass] = maps[:1, ..., grass]
        agrees(ours, output_of(expected, v[1:]))


def test_a_prompt_of_two_chunks_and_several_branches_at_once():
    long = SOURCE + " and the tree" * 25
    chains = [
        (WordSwap("cat", "dog", schedule=ALWAYS),),
        (Reweight((("fluffy", 3.0),)),),
        (Refine(long.replace("wet", "very wet"), schedule=ALWAYS), Reweight((("very", 2.0),))),
    ]
    ours, maps, v, controller = edited_outputs(chains, 0.0, text=long)
    assert controller.length == 154
    expected = maps[:1].repeat(3, 1, 1, 1)
    expected[1][..., tokens(controller, "fluffy", 1)] *= 3
    expected[2] = maps[0] @ controller.branches[2].mapper.double()
    very = tokens(controller, "very", 2)
    expected[2][..., very] = 2 * maps[3][..., very]
    agrees(ours, output_of(expected, v[1:]))


def test_reweight_follows_the_injection_before_it_and_acts_all_through_alone():
    weight = Reweight((("cat", 2.0),))
    chained = plan(SOURCE, [(WordSwap("wet", "dry"), weight)], reader()).branches[0]
    assert chained.at(0.7).map_edit.multiplied.inject[3, 3] == 2
    assert chained.at(0.8).map_edit.is_untouched
    alone = plan(SOURCE, [(weight,)], reader()).branches[0]
    assert alone.at(0.99).map_edit.multiplied.inject[3, 3] == 2
    inserted = plan(
        SOURCE, [(Refine(SOURCE + " at night"), Reweight((("night", 2.0),)))], reader()
    ).branches[0]
    night = inserted.edited.tokens_of("night")
    assert inserted.at(0.0).map_edit.multiplied.keep[night].tolist() == [2.0]
    assert inserted.at(0.9).map_edit.multiplied.keep[night].tolist() == [1.0]


def test_reweight_injects_self_attention_only_alone():
    own = SelfInjection(Window(0, 0.6))
    alone = plan(SOURCE, [(Reweight((("cat", 2.0),), self_injection=own),)], reader()).branches[0]
    assert alone.at(0.5).self_reaches == {None}
    swap = WordSwap("wet", "dry", self_injection=SelfInjection(Window(0, 0.1)))
    chain = (swap, Reweight((("cat", 2.0),), self_injection=own))
    assert plan(SOURCE, [chain], reader()).branches[0].at(0.5).self_reaches == set()


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_revised_text_is_the_text_that_was_wanted(old, new):
    read = reader(split_words)
    revised = revise(Draft.of(old), read(old), read(new), 0)
    assert revised.text == new
    assert revised.pieces[0].start == 0 if revised.pieces else not (old + new)


def reference_alignment(x, y):
    """Needleman–Wunsch of the authors' code, gap 0, match 1, mismatch −1."""
    score = torch.zeros(len(x) + 1, len(y) + 1)
    trace = torch.zeros(len(x) + 1, len(y) + 1, dtype=torch.int)
    trace[0, 1:], trace[1:, 0], trace[0, 0] = 1, 2, 4
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            left, up = score[i, j - 1], score[i - 1, j]
            diagonal = score[i - 1, j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            score[i, j] = max(left, up, diagonal)
            trace[i, j] = 1 if score[i, j] == left else 2 if score[i, j] == up else 3
    i, j, pairs = len(x), len(y), []
    while i or j:
        if trace[i, j] == 3:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif trace[i, j] == 1:
            j -= 1
        elif trace[i, j] == 2:
            i -= 1
    return pairs[::-1]


words = st.lists(st.sampled_from("abcde"), max_size=9)


@given(words, words)
def test_alignment_is_the_references(x, y):
    assert matching(x, y) == reference_alignment(x, y)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), words.filter(len))
def test_refinement_has_the_references_mapper(x, y):
    """M0[:, A] · a + M1 · (1 − a): start, words and end as aligned, A(j) = j behind the end."""
    controller = plan(
        " ".join(x), [(Refine(" ".join(y), inject_swapped=False, schedule=ALWAYS),)], reader()
    )
    pair = controller.branches[0].at(0.5).map_edit
    taken = dict((j + 1, i + 1) for i, j in reference_alignment(x, y))
    taken |= {0: 0, len(y) + 1: len(x) + 1} | {j: j for j in range(len(y) + 2, 77)}
    expected = torch.zeros(77, 77, dtype=torch.float64)
    for j, i in taken.items():
        expected[i, j] = 1
    assert torch.equal(pair.inject, expected)
    assert torch.equal(pair.keep, 1 - expected.sum(0))


@pytest.mark.parametrize(("cross_end", "step"), [(0.8, 10), (0.8, 41), (0.3, 14), (0.3, 16)])
def test_replacement_and_equalizer_are_the_references(cross_end, step):
    """attn_new · α + (1 − α) · attn, attn_new = M0 · mapper · equalizer, α as in 50 steps."""
    swap = WordSwap("cat", "dog", schedule=Schedule(Window(0, cross_end)))
    weight = Reweight((("fluffy", 4.0), ("dog", 0.5)))
    ours, maps, v, controller = edited_outputs([(swap, weight)], step / 50)
    alpha = float(step < int(cross_end * 51))
    equalizer = torch.ones(controller.length, dtype=torch.float64)
    equalizer[tokens(controller, "fluffy")] = 4.0
    equalizer[tokens(controller, "dog")] = 0.5
    mapper = torch.eye(controller.length, dtype=torch.float64)
    new = (maps[:1] @ mapper) * equalizer
    agrees(ours, output_of(new * alpha + (1 - alpha) * maps[1:], v[1:]))


def reference_blend(x, maps, alpha_layers, substruct, threshold=0.3):
    """The authors' LocalBlend: maps[rows layers·heads 1 h w tokens], x[rows channels H W]."""

    def mask_of(alpha, pool):
        found = (maps * alpha).sum(-1).mean(1)
        if pool:
            found = F.max_pool2d(found, (3, 3), (1, 1), padding=(1, 1))
        mask = F.interpolate(found, size=x.shape[2:])
        mask = mask / mask.max(2, keepdims=True)[0].max(3, keepdims=True)[0]
        mask = mask.gt(threshold)
        return mask[:1] + mask

    mask = mask_of(alpha_layers, True)
    if substruct is not None:
        mask = mask * ~mask_of(substruct, False)
    return x[:1] + mask.float() * (x - x[:1])


@pytest.mark.parametrize(
    ("chain", "phrase"),
    [
        ((Refine("a big cat", schedule=Schedule(words=(("big", Window()),))),), "big"),
        (
            (
                WordSwap("cat", "dog"),
                WordSwap("a", "one", schedule=Schedule(words=(("dog", Window()),))),
            ),
            "dog",
        ),
        (
            (
                WordSwap("cat", "dog"),
                Reweight((("dog", 2.0),), Schedule(words=(("a", Window()),))),
            ),
            "a",
        ),
        ((WordSwap("a", "one", schedule=Schedule(words=(("cat", Window()),) * 2)),), "cat"),
    ],
)
def test_a_window_for_a_word_that_the_edit_leaves_alone_says_so(chain, phrase):
    with pytest.raises(ValueError, match=f"got one for '{phrase}', which it does not"):
        plan("a cat", [chain], reader())


def test_a_window_for_a_word_that_is_faded_to_one_is_no_error():
    chain = (
        WordSwap("cat", "dog"),
        Reweight((("dog", 1.0),), Schedule(words=(("dog", Window()),))),
    )
    assert plan("a cat", [chain], reader()).branches


@pytest.mark.parametrize("subtract", [(), ("grass",), ("dog",), ("cat",), ("grass", "big")])
def test_local_blend_is_the_references(subtract):
    """Words to subtract are of both prompts, of the edited one alone, or of the source alone."""
    local = LocalBlend(("fluffy cat",), ("fluffy big dog",), subtract, start=0.0)
    controller = plan(SOURCE, [(WordSwap("cat", "big dog"), local)], reader())
    length, side, rows = controller.length, 16, Rows(1, 1)
    generator = torch.Generator().manual_seed(3)
    rough = torch.randn(2, 5, 1, 4, 4, length, generator=generator).mul(3).softmax(-1)
    maps = rough.repeat_interleave(4, 3).repeat_interleave(4, 4)
    x = torch.randn(2, 4, 2 * side, 2 * side, generator=generator)
    alpha, take = (torch.zeros(2, 1, 1, 1, 1, length) for _ in range(2))
    for row, prompt in enumerate(controller.prompts):
        alpha[row, ..., prompt.tokens_of(("fluffy cat", "fluffy big dog")[row])] = 1
        for word in subtract:
            if word in prompt.text.split():
                take[row, ..., prompt.tokens_of(word)] = 1
    expected = reference_blend(x, maps, alpha, take if subtract else None)
    blending = Blending(controller, rows, [0.5], x.shape[2:], [1.0, 0.0])
    mean = maps.mean((1, 2)).flatten(1, 2)
    seen = torch.einsum("rpt,rlt->rlp", mean, blending.maps[0].columns)
    blending.maps[0].add(seen, side, side, 0.0)
    ours = x.clone()
    blending.apply(ours, 0.0, lambda background, sigma: background)
    assert 0 < blending.masks[0].mean() < 1
    assert torch.allclose(ours, expected, atol=1e-6)


def test_words_to_subtract_are_of_either_prompt():
    swap = WordSwap("cat", "dog")
    for word in ("cat", "dog", "grass"):
        assert plan(SOURCE, [(swap, LocalBlend(("cat",), (), (word,)))], reader())
    with pytest.raises(ValueError, match="'tree' is not in the prompt 'a fluffy dog"):
        plan(SOURCE, [(swap, LocalBlend(("cat",), (), ("tree",)))], reader())


def test_tokens_inside_changed_words_are_aligned():
    """ "snowman" → "snowboard" share "sno" in a tokenizer of threes: that piece is kept."""
    controller = plan(
        "a snowman", [(Refine("a snowboard", inject_swapped=True),)], reader(chunks_of_three)
    )
    branch = controller.branches[0]
    # a | sno wma n   →   a | sno wbo ard
    assert torch.equal(branch.mapper[2:5, 2:5], torch.eye(3))
    shared = plan("a snowman", [(Refine("a snobxxx"),)], reader(chunks_of_three)).branches[
        0
    ]  # sno wma n → sno bxx x
    assert shared.mapper[2, 2] == 1
    unequal = plan("a snowman", [(Refine("a snob"),)], reader(chunks_of_three)).branches[0]
    assert unequal.mapper[2, 2] == 1  # sno kept
    assert torch.equal(unequal.mapper[3:5, 3], torch.ones(2))  # b gets both of wma, n


def test_wrong_chains_are_refused():
    swap, local = WordSwap("cat", "dog"), LocalBlend(("cat",), ("dog",))
    for chain in ((local,), (swap, local, local)):
        with pytest.raises(ValueError, match="chain of edits with at most one local blend"):
            plan(SOURCE, [chain], reader())
    with pytest.raises(
        ValueError, match=r"'tree' is not in the prompt .* Its words are: a, fluffy"
    ):
        plan(SOURCE, [(swap, LocalBlend(("tree",)))], reader())
    with pytest.raises(ValueError, match=r"'cat' is not in the prompt 'a fluffy dog"):
        plan(SOURCE, [(swap, Reweight((("cat", 2.0),)))], reader())
    with pytest.raises(ValueError, match="at least one word with its factor"):
        Reweight(())
    for factor in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="Expected a finite factor for 'cat', got"):
            Reweight((("fluffy", 2.0), ("cat", factor)))
    with pytest.raises(ValueError, match="Expected the edited prompt, got ' '"):
        plan(SOURCE, [(Refine(" "),)], reader())
    with pytest.raises(ValueError, match="hard ends"):
        SelfInjection(Window(0, 0.5, fade=0.1))


def test_rows_that_are_not_finite_are_named():
    rows = Rows(2, 2)
    latents = torch.zeros(6, 4, 8, 8)
    rows.check_finite(latents)
    latents[5, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"NaN in edit 2\. A word's factor is too large"):
        rows.check_finite(latents)
    latents[1] = float("inf")
    with pytest.raises(ValueError, match=r"NaN in the source and edit 2\. The model's weights"):
        rows.check_finite(latents)


def test_a_controller_is_itself_wherever_it_is_copied_to():
    controller = plan(SOURCE, [(WordSwap("cat", "dog"),)], reader())
    copied = copy.deepcopy({"entries": [controller]})
    assert copied["entries"][0] is controller
