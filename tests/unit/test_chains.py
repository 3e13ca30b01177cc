"""Any chain of edits of any prompt, at any moment, against explicit maps edited word by word.

Chains are drawn at random together with what became of every word. The oracle knows words,
windows and token counts from there; it asks the code under test for nothing.
"""

import pickle
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from oracle import attention, explicit_maps, output_of
from text_tokenizers import chunks_of_three, reader

from p2p_core.attention import CrossEdit, RowEdit
from p2p_core.controller import ChainError, Rows, plan
from p2p_core.edits import Refine, Reweight, SelfInjection, WordSwap
from p2p_core.local_blend import LocalBlend
from p2p_core.schedules import Schedule, Window

PIXELS, CHANNELS = 3, 4
OLD = ("cat", "fluffy", "a", "mechanical", "dad", "beige", "lamb", "if", "black", "age")
NEW = ("tortoise", "pop", "twostorey", "runt", "yo", "stupor", "wry", "opus", "nut", "sunny")
"""Words of the source and words that edits write; no piece of one is a piece of another."""


@dataclass(frozen=True)
class Cell:
    """Words of the source that became words of the edited prompt, by which edit (None: kept)."""

    source: tuple[str, ...]
    edited: tuple[str, ...]
    edit: int | None = None


@dataclass
class Case:
    """A chain, and what it makes of the prompt."""

    cells: list[Cell]
    chain: list = field(default_factory=list)

    @property
    def words(self):
        return [word for cell in self.cells for word in cell.edited]


def draw_window(random):
    start, end = sorted(random.randrange(11) / 10 for _ in range(2))
    return Window(start if random.random() < 0.5 else 0.0, end, random.choice((0.0, 0.0, 0.3, 0.7)))


def draw_schedule(random, words):
    some = random.sample(words, min(len(words), random.randrange(3)))
    return Schedule(draw_window(random), tuple((word, draw_window(random)) for word in some))


def draw_self(random):
    reach = random.choice((None, 0.25, 0.5, 1.0))
    return SelfInjection(Window(0.0, random.randrange(11) / 10), reach)


def fresh(random, unused):
    return tuple(unused.pop() for _ in range(random.randint(1, 2)))


def draw_case(random, words):
    """Up to four links in any order, each changing words that the ones before it kept.

    Its schedules are drawn last: they name words of the finished prompt that the link acts on.
    """
    unused = random.sample(NEW, len(NEW))
    case = Case([Cell((word,), (word,)) for word in words])
    made = []
    for kind in random.choices(("swap", "refine", "weight"), k=random.randint(1, 4)):
        index = len(made)
        kept = [n for n, cell in enumerate(case.cells) if cell.edit is None]
        if kind == "swap" and not kept:
            continue
        if kind == "swap":
            at = random.choice(kept)
            (word,) = case.cells[at].source
            gone = random.random() < 0.2 and len(case.words) > 1
            case.cells[at] = Cell((word,), () if gone else fresh(random, unused), index)
            replacement = " ".join(case.cells[at].edited)
            made.append((lambda s, own, w=word, r=replacement: WordSwap(w, r, 1, s, own), True))
        elif kind == "refine":
            refine(random, case, kept, index, unused)
            text, inject = " ".join(case.words), random.random() < 0.5
            made.append((lambda s, own, t=text, i=inject: Refine(t, i, s, own), inject))
        else:
            made.append(None)
    for index, link in enumerate(made):
        own = draw_self(random)
        if link is None:
            count = random.randint(1, min(2, len(case.words)))
            names = random.sample(case.words, count)
            weights = tuple((name, random.choice((-2.0, 0.0, 0.3, 1.0, 3.7))) for name in names)
            schedule = draw_schedule(random, names if any(made) else case.words)
            case.chain.append(Reweight(weights, random.choice((None, schedule)), own))
        else:
            make, injects = link
            written = [cell for cell in case.cells if injects and cell.edit == index]
            held = [cell for cell in case.cells if cell.edit is None]
            words = [word for cell in held + written if cell.source for word in cell.edited]
            case.chain.append(make(draw_schedule(random, words), own))
    return case


def refine(random, case, kept, index, unused):
    """Insert at some place, or change some word, where words on both sides stay as they are."""
    free = [
        n for n in kept if all(m in kept or not 0 <= m < len(case.cells) for m in (n - 1, n + 1))
    ]
    if not free:
        return
    at = random.choice(free)
    (word,) = case.cells[at].source
    how = random.choice(("before", "after", "change", "delete"))
    if how in ("before", "after"):
        case.cells.insert(at + (how == "after"), Cell((), fresh(random, unused), index))
    elif how == "change" or len(case.words) == 1:
        case.cells[at] = Cell((word,), fresh(random, unused), index)
    else:
        case.cells[at] = Cell((word,), (), index)


def positions(words, window):
    """Places of every word's pieces of three letters, of start, end and padding, and the length."""
    places, at = {}, 0
    for word in words:
        count = -(-len(word) // 3)
        places[word] = [
            (n // window) * (window + 2) + 1 + n % window for n in range(at, at + count)
        ]
        at += count
    chunks = max(1, -(-at // window))
    length = chunks * (window + 2)
    starts = [n * (window + 2) for n in range(chunks)]
    ends = [start + window + 1 for start in starts[:-1]] + [
        starts[-1] + at - (chunks - 1) * window + 1
    ]
    padding = list(range(ends[-1] + 1, length))
    return places, (starts, ends, padding), length


def spread(matrix, rows, columns):
    """Row r of n covers r/n to (r + 1)/n, column c of m likewise; counted in parts of 1/(n m)."""
    n, m = len(rows), len(columns)
    r, c = torch.arange(n)[:, None] * m, torch.arange(m) * n
    overlap = (torch.minimum(r + m, c + n) - torch.maximum(r, c)).clamp(min=0)
    matrix[torch.tensor(rows)[:, None], columns] = overlap.double() / m


def expected_mapper(case, window):
    """DESIGN 1: one to one, or the source word's columns summed and shared out; then A(j) = j.

    Ends go to ends; prompts of other lengths have like spread over like.
    """
    source, specials, rows = positions([w for cell in case.cells for w in cell.source], window)
    edited, to_specials, columns = positions(case.words, window)
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    for cell in case.cells:
        here = [t for word in cell.source for t in source[word]]
        there = [t for word in cell.edited for t in edited[word]]
        for n, column in enumerate(there):
            if len(here) == len(there):
                matrix[here[n], column] = 1
            else:
                matrix[here, column] = 1 / len(there)
    if rows == columns:
        matrix[specials[1], to_specials[1]] = 1
        for place in to_specials[0] + to_specials[2]:
            matrix[place, place] = 1
        return matrix.float().double()  # a mapper's precision
    if not (specials[2] and to_specials[2]):
        specials, to_specials = (
            (blocks[0], sorted(blocks[1] + blocks[2])) for blocks in (specials, to_specials)
        )
    for block, to_block in zip(specials, to_specials, strict=True):
        if block:
            spread(matrix, block, to_block)
    return matrix.float().double()


def expected_map(case, progress, window, m_source, m_edited):
    """The edited row's map, and up to which layers its self-attention is the source's.

    Held tokens: α · M_src A + (1 − α) · M, one edit after the other; then, wherever in the chain
    they were written, the factors: M · (1 + α (c − 1)).
    """
    mapper = expected_mapper(case, window)
    places, _, length = positions(case.words, window)
    writer = [cell.edit for cell in case.cells for word in cell.edited for _ in places[word]]
    written = torch.full((length,), -1)
    for place, edit in zip([t for word in case.words for t in places[word]], writer, strict=True):
        written[place] = -1 if edit is None else edit
    holders = [n for n, link in enumerate(case.chain) if not isinstance(link, Reweight)]
    holders = holders or list(range(len(case.chain)))

    def alpha(schedule):
        share = torch.full((length,), schedule.window.weight(progress), dtype=torch.float64)
        for word, own in schedule.words:
            share[places[word]] = own.weight(progress)
        return share

    shares = {n: alpha(case.chain[n].schedule or Schedule()) for n in holders}
    longest = torch.stack(list(shares.values())).amax(0)
    result, injected = m_edited, m_source @ mapper
    for n in holders:
        link = case.chain[n]
        own = (written == n) & (not isinstance(link, Refine) or link.inject_swapped)
        share = shares[n] * ((written == -1) | own) * (mapper.sum(0) > 0)
        result = share * injected + (1 - share) * result
    for link in (link for link in case.chain if isinstance(link, Reweight)):
        share = longest if link.schedule is None else alpha(link.schedule)
        result = result.clone()
        for word, factor in link.weights:
            result[..., places[word]] *= 1 + share[places[word]] * (factor - 1)
    injections = [case.chain[n].self_injection for n in holders]
    return result, {own.reach for own in injections if progress < own.window.end}


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def check(source, cases, window, sources, progress):
    """Every edited row of a batch is as the oracle's, and every source row as without edits."""
    controller = plan(
        " ".join(source), [tuple(case.chain) for case in cases], reader(chunks_of_three, window)
    )
    texts = [" ".join(source), *(" ".join(case.words) for case in cases)]
    assert [prompt.text.split() for prompt in controller.prompts] == [t.split() for t in texts]
    rows, total = Rows(sources, len(cases)), controller.length
    generator = torch.Generator().manual_seed(0)
    q = normal(rows.total, PIXELS, CHANNELS, generator=generator)
    lengths = [positions(text.split(), window)[2] for text in texts]
    assert [prompt.length for prompt in controller.prompts] == lengths
    keys, values = (
        [normal(sources, n, CHANNELS, generator=generator) for n in lengths] for _ in range(2)
    )
    moments = controller.at(progress, total, torch.float64)
    edits = [
        RowEdit(row, other, moment.map_edit)
        for n, moment in enumerate(moments)
        for row, other in rows.pairs(n)
    ]
    k, v = (
        torch.cat([x.repeat(1, total // x.shape[1], 1) for x in some]) for some in (keys, values)
    )
    cross = CrossEdit.of(edits, rows.total, torch.device("cpu"))
    ours = attention(q, k, v) if cross is None else cross.attend(attention, q, k, v)
    m_source = explicit_maps(q[rows.source_block], keys[0])
    expected = [output_of(m_source, values[0])]
    for n, case in enumerate(cases):
        own = explicit_maps(q[rows.block(n)], keys[n + 1])
        edited, reaches = expected_map(case, progress, window, m_source, own)
        expected.append(output_of(edited, values[n + 1]))
        assert moments[n].self_reaches == reaches
    expected = torch.cat(expected)
    assert (ours - expected).abs().max() <= 1e-10 * expected.abs().max()


@settings(deadline=None, max_examples=120)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from(OLD), min_size=1, max_size=8, unique=True),
    st.sampled_from([3, 4, 6, 75]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 19),
)
def test_any_chain_is_its_paper_definition(random, source, window, branches, sources, step):
    """Windows of the tokenizer's chunks from 3 to 75: one chunk, several, more on either side."""
    cases = [draw_case(random, source) for _ in range(branches)]
    note(f"{cases}")
    check(source, cases, window, sources, step / 20)


@pytest.mark.parametrize(("words", "more"), [(70, 2), (70, 12), (80, 2)])
@pytest.mark.parametrize("progress", [0.0, 0.45, 0.6])
def test_prompts_of_77_and_154_tokens(words, more, progress):
    source = [f"{'abcdefghij'[n // 10]}{'klm'[n % 3]}{'abcdefghij'[n % 10]}" for n in range(words)]
    new = tuple(NEW[:more])
    cells = [Cell((word,), (word,)) for word in source]
    cells[5] = Cell(cells[5].source, new, 0)
    schedule = Schedule(Window(0.0, 0.5, 0.2), ((source[7], Window(0.4, 0.8)),))
    chain = [
        WordSwap(source[5], " ".join(new), 1, schedule),
        Reweight(((source[9], -1.3), (new[0], 2.2))),
    ]
    check(source, [Case(cells, chain)], 75, 1, progress)


def test_windows_name_words_of_the_finished_prompt():
    def chain(*names):
        schedule = Schedule(Window(0, 0), tuple((name, Window()) for name in names))
        return plan("a cat", [(WordSwap("cat", "big cat", 1, schedule),)], reader()).branches[0]

    assert chain("big", "a #1").at(0.5).map_edit.keep[1:4].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"'dog' is not in the prompt 'a big cat'. Its words are"):
        chain("dog")


def test_reweights_alone_hold_the_source_each_in_its_own_window():
    chain = [
        Reweight((("cat", 2.0),), Schedule(Window(0, 0.5))),
        Reweight((("a", 0.5),), Schedule(Window(0.3, 0.8))),
    ]
    cells = [Cell((word,), (word,)) for word in ("a", "cat", "if")]
    for progress in (0.0, 0.4, 0.6, 0.9):
        check(["a", "cat", "if"], [Case(cells, chain)], 75, 2, progress)


@pytest.mark.parametrize(
    ("bad", "link"),
    [
        ((WordSwap("sun", "moon"),), 1),
        ((LocalBlend(("big",)), Reweight((("lamb", 2.0),))), 2),
        ((Reweight((("big", 2.0),)), LocalBlend(edited_words=("cat",))), 2),
        ((WordSwap("big", "old", schedule=Schedule(words=(("big", Window()),))),), 1),
        ((LocalBlend(("big",)), LocalBlend(("cat",))), None),
    ],
)
def test_what_is_wrong_says_with_which_edit(bad, link):
    """Also after it came from another process."""
    good = WordSwap("cat", "dog")
    with pytest.raises(ChainError) as failure:
        plan("a big cat", [(good,), (good, *bad)], reader())
    for error in (failure.value, pickle.loads(pickle.dumps(failure.value))):
        assert (error.chain, error.link) == (1, link)
        assert str(error) == str(failure.value)


@pytest.mark.parametrize(
    ("chain", "source_words", "edited_words"),
    [
        ((WordSwap("cat", "big dog"),), ("cat",), ("big dog",)),
        (
            (Refine("a wet cat, and a dog on snow"),),
            ("grass", "cat"),
            ("wet", "and a dog", "snow", "cat"),
        ),
        ((WordSwap("cat", ""),), ("cat",), ()),
        ((Reweight((("grass", 2.0),)),), ("grass",), ("grass",)),
        (
            (WordSwap("grass", "snow"), Reweight((("snow", 2.0),))),
            ("grass",),
            ("snow",),
        ),
        ((WordSwap("on", "cat"),), ("on", "grass"), ("cat #2", "grass")),
    ],
)
def test_a_blend_without_words_takes_those_that_its_edits_change(chain, source_words, edited_words):
    asking = LocalBlend(threshold=0.4, subtract_words=("a",))
    blend = plan("a cat on grass", [(*chain, asking)], reader()).branches[0].blend
    assert blend == replace(asking, source_words=source_words, edited_words=edited_words)


@pytest.mark.parametrize(
    ("text", "chain", "source_words", "edited_words"),
    [
        ("a red circle on the grass", (WordSwap("red", "blue"),), "red circle", "blue circle"),
        ("a red circle on the grass", (WordSwap("circle", "star"),), "circle", "star"),
        (
            "a red circle, grass",
            (Refine("a striped red circle, grass"),),
            "circle",
            "striped circle",
        ),
        ("a dotted red ring", (Refine("a red ring"),), "dotted ring", "ring"),
        ("a big red house, at night", (Reweight((("big", 2.0),)),), "big house", "big house"),
        ("a red cat and a red dog", (WordSwap("red", "black", 2),), "red #2|dog", "black dog"),
        ("a wet cat sits there", (WordSwap("cat", "dog"),), "cat", "dog"),
        ("red circle", (WordSwap("red", "blue"), WordSwap("circle", "star")), None, None),
    ],
)
def test_a_changed_word_brings_the_noun_that_it_stands_by(text, chain, source_words, edited_words):
    """Up to punctuation or a word that no noun stands before; a kept noun in both prompts."""
    blend = plan(text, [(*chain, LocalBlend())], reader()).branches[0].blend
    assert blend is not None
    if source_words is None:  # each once
        assert blend.source_words == ("red", "circle")
        assert blend.edited_words == ("blue", "star")
        return
    assert blend.source_words == tuple(source_words.split("|" if "|" in source_words else " "))
    assert blend.edited_words == tuple(edited_words.split())


def test_a_blend_with_a_mask_keeps_to_it_and_one_of_no_change_is_none():
    own = LocalBlend(user_mask=torch.ones(1, 4, 4))
    same = Refine("a cat on grass")
    chains = [(WordSwap("cat", "dog"), own), (same, LocalBlend())]
    masked, unchanged = plan("a cat on grass", chains, reader()).branches
    assert masked.blend is own
    assert unchanged.blend is None
