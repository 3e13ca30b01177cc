"""Word maps, masks made of them, and drawings."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from text_tokenizers import reader

from p2p_core.attention import CrossEdit, RowEdit
from p2p_core.attention_maps import Seen, WordMaps, word_maps
from p2p_core.controller import Rows, plan
from p2p_core.drawing import coloured, draw, per_row, tiles
from p2p_core.edits import MapEdit
from p2p_core.local_blend import LocalBlend, blend, chosen_side
from p2p_core.schedules import Window
from p2p_core.viewing import Viewing

ROOT = Path(__file__).resolve().parents[2]
ROWS, PIXELS, TOKENS, HEADS, WIDTH = 2, 12, 7, 2, 3


def attention(q, k, v):
    q, k, v = (x.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("looks", [1, 3, 8])
def test_word_maps_are_the_softmax_summed_over_tokens_and_meaned_over_heads(looks):
    """Also where there are more looks than a head has channels."""
    generator = torch.Generator().manual_seed(0)
    size = HEADS * WIDTH
    q = torch.randn(ROWS, PIXELS, size, generator=generator, dtype=torch.float64)
    k = torch.randn(ROWS, TOKENS, size, generator=generator, dtype=torch.float64)
    columns = (torch.rand(ROWS, looks, TOKENS, generator=generator) > 0.5).double()
    heads = [x.view(ROWS, -1, HEADS, WIDTH).transpose(1, 2) for x in (q, k)]
    maps = torch.softmax(heads[0] @ heads[1].mT / WIDTH**0.5, dim=-1).mean(1)
    expected = torch.einsum("rpt,rlt->rlp", maps, columns)
    assert torch.allclose(word_maps(attention, q, k, columns, HEADS), expected, atol=1e-12)


def test_means_over_layers_and_the_steps_of_a_window():
    maps = WordMaps(torch.zeros(1, 1, 3), by_step=True)
    for progress, value in ((0.0, 1.0), (0.0, 3.0), (0.5, 8.0)):
        maps.add(torch.full((1, 1, 6), value), 2, 3, progress)
    assert maps.mean().shape == (1, 1, 2, 3)
    assert maps.mean().unique().tolist() == [4.0]
    assert maps.mean(Window(0, 0.5)).unique().tolist() == [2.0]
    with pytest.raises(ValueError, match="Choose another resolution or window"):
        maps.mean(Window(0.1, 0.2))


def seen(row, word, value=1.0):
    return Seen(row, word, torch.full((4, 6), value), torch.rand(20, 4, 6))


def test_drawings_have_the_images_size_and_a_caption_above():
    image = torch.rand(256, 384, 3)
    drawings = draw([seen(0, "cat"), seen(1, "dog"), seen(0, "sky")], [image, None])
    bar = drawings.heatmaps.shape[1] - 256
    assert 20 <= bar <= 40
    assert drawings.heatmaps.shape == (3, 256 + bar, 384, 3)
    assert drawings.maps.shape == (3, 4, 6)
    assert drawings.heatmaps.min() >= 0
    assert drawings.heatmaps.max() <= 1
    captions, below = drawings.heatmaps[:, :bar], drawings.heatmaps[:, bar:]
    yellow = torch.tensor([0xFD, 0xE7, 0x25]) / 255
    over = torch.lerp(image.mean(-1, keepdim=True), yellow.expand_as(image), 0.65)
    assert torch.allclose(below[0], over, atol=1e-5)  # a map of ones
    assert not torch.equal(captions[0], captions[2])  # the same image and map, another word
    assert torch.equal(below[0], below[2])


def test_captions_name_rows_and_end_on_the_picture_however_long_a_word_is():
    one = [seen(0, "cat")]
    named = draw(one, [None], ["source"]).heatmaps
    assert not torch.equal(named, draw(one, [None]).heatmaps)
    long = "a very long phrase of many words, which no picture of this width has room for"
    bar = draw([seen(0, long)], [None]).heatmaps[0, :28]
    assert (bar[:, -60:-4] > 0.5).any(), "the last letters"
    assert not (bar[:, -4:] > 0.5).any()


def test_maps_are_drawn_large_enough_to_read():
    """Without an image, and on a small one."""
    for image in (None, torch.rand(64, 96, 3)):
        bar = 256 // 9
        assert draw([seen(0, "cat")], [image]).heatmaps.shape == (1, 256 + bar, 384, 3)


def test_strips_are_small_however_large_the_images_are_and_tell_the_steps():
    drawings = draw([seen(0, "cat")], [torch.rand(512, 768, 3)])
    assert drawings.heatmaps.shape == (1, 512 + 512 // 9, 768, 3)
    assert drawings.steps.shape == (1, 128 + 2 * 20, 8 * 192, 3)
    one = seen(0, "cat")
    later = Seen(0, "cat", one.mean, one.steps, tuple(range(5, 25)))
    first, second = (draw([at], [None]).steps[0, 20:40, :192] for at in (one, later))
    assert not torch.equal(first, second), "step 1, step 5"


def test_a_common_scale_keeps_words_apart():
    """A tenth of another's maximum: alike on scales of their own, not on a common one."""
    some = [seen(0, "cat", 1.0), seen(0, "the", 0.1)]
    own, common = (draw(some, [None], common=one).heatmaps[:, 28:] for one in (False, True))
    assert torch.allclose(own[0], own[1], atol=1e-6)
    assert torch.equal(common[0], own[0])
    assert common[1].mean() < common[0].mean() - 0.1


def test_the_colours_grow_evenly_in_lightness():
    """CIE L* of an even ramp rises by nearly the same in every tenth."""
    rgb = coloured(torch.linspace(0, 1, 11)).double()
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    lightness = 116 * luminance ** (1 / 3) - 16
    assert (lightness.diff() - lightness.diff().mean()).abs().max() < 2.5
    assert lightness.diff().mean() > 7


def test_maps_as_data_give_back_what_was_seen():
    """Each by its maximum, which is told; large ones smaller, of many steps some."""
    some = [seen(0, "cat", 2.0), seen(1, "dog", 0.5)]
    told = tiles(some)
    assert told.pictures.shape == (2, 4, 21 * 6, 3)
    assert told.numbers == list(range(1, 21))
    maps = told.pictures[..., 0].view(2, 4, 21, 6).transpose(1, 2)
    peaks = torch.tensor(told.peaks)[..., None, None]
    expected = torch.stack([torch.cat([one.mean[None], one.steps]) for one in some])
    assert torch.allclose(maps * peaks, expected, rtol=1e-3)
    large = Seen(0, "cat", torch.rand(100, 200), torch.rand(200, 100, 200), tuple(range(9, 209)))
    told = tiles([large])
    assert told.pictures.shape == (1, 32, 65 * 64, 3)
    assert [told.numbers[0], told.numbers[-1], len(told.numbers)] == [9, 208, 64]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_drawing_takes_little_more_than_the_heatmaps():
    """40 words of two rows at 1024²: a gigabyte of heatmaps, which are asked for."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from p2p_core.attention_maps import Seen
from p2p_core.controller import Rows, plan
from p2p_core.drawing import draw

def bytes_of(name):
    (line,) = [one for one in open("/proc/self/status") if one.startswith(name)]
    return int(line.split()[1]) * 1024

images = [torch.full((1024, 1024, 3), 0.5)] * 2
seen = [Seen(n % 2, "word", torch.rand(32, 32), torch.rand(50, 32, 32)) for n in range(80)]
draw(seen[:1], images)  # what is loaded once
before = bytes_of("VmRSS")
heatmaps = draw(seen, images).heatmaps
print(bytes_of("VmHWM") - before - heatmaps.nbytes)
"""
    told = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert int(told.stdout) <= 0.3e9


def test_a_prompt_without_words_has_nothing_to_look_at():
    controller = plan("", [], reader())
    with pytest.raises(ValueError, match="a prompt with words to look at, got ''"):
        Viewing.of(controller, Rows(1, 0), (), 1.0)


def test_wrong_images():
    with pytest.raises(ValueError, match="Expected 2 edited images, got 3"):
        per_row(torch.rand(3, 8, 8, 3), 2, "edited")
    with pytest.raises(ValueError, match="edited images of 3 colour channels, got 2"):
        per_row(torch.rand(2, 8, 8, 2), 2, "edited")
    with pytest.raises(ValueError, match="images of one size"):
        draw([seen(0, "cat")], [torch.rand(8, 8, 3), torch.rand(9, 8, 3)])


def masked(size=(8, 8), **options):
    """The mask of a word map that falls from 1 at the left to 0 at the right."""
    ramp = torch.linspace(1, 0, 8).expand(1, 8, 8)
    flat = torch.zeros(1, 8, 8)
    return LocalBlend(edited_words=("cat",), **options).mask(flat, ramp, [], torch.Size(size))


def test_thresholds_softness_and_growth():
    hard = masked(threshold=0.5)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert masked(threshold=0.8).sum() < hard.sum() < masked(threshold=0.2).sum()
    assert masked(threshold=0.5, grow=2).sum() == hard.sum() + 2 * 8
    soft = masked(threshold=0.5, softness=0.5)
    assert ((soft > 0) & (soft < 1)).any()
    assert (soft.diff(dim=-1) <= 0).all()
    assert masked(size=(16, 24), threshold=0.5).shape == (1, 16, 24)


def test_subtracted_words_are_taken_out():
    ramp = torch.linspace(1, 0, 8).expand(1, 8, 8)
    wanted = LocalBlend(edited_words=("cat",), subtract_words=("hat",), threshold=0.3)
    mask = wanted.mask(ramp, torch.ones(1, 8, 8), [ramp], torch.Size((8, 8)))
    assert mask[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    both = wanted.mask(ramp, torch.ones(1, 8, 8), [ramp, ramp.flip(-1)], torch.Size((8, 8)))
    assert not both.any()


def test_a_map_of_nothing_is_an_empty_mask():
    """The authors' code divides 0 by 0 here."""
    nothing = torch.zeros(1, 8, 8)
    wanted = LocalBlend(source_words=("cat",))
    assert wanted.mask(nothing, nothing, [], torch.Size((8, 8))).sum() == 0


def test_blending_is_linear_in_the_mask():
    a, b = torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)
    assert torch.equal(blend(a, b, torch.zeros(2, 8, 8)), b)
    assert torch.allclose(blend(a, b, torch.ones(2, 8, 8)), a)
    assert torch.allclose(blend(a, b, torch.full((2, 8, 8), 0.25)), 0.25 * a + 0.75 * b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "a threshold within 0 and 1, got 1.5"),
        ({"start": -0.1}, "a start within 0 and 1"),
        ({"softness": 2}, "a softness within 0 and 1"),
        ({"grow": -1}, "0 or more latent cells, got -1"),
        ({"join": "xor"}, "union or intersection, got 'xor'"),
    ],
)
def test_wrong_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        LocalBlend(source_words=("cat",), **options)


def test_too_many_masks():
    zeros = torch.zeros(2, 8, 8)
    with pytest.raises(ValueError, match=r"one mask or 2 \(one for each source image\), got 3"):
        LocalBlend(user_mask=torch.ones(3, 4, 4)).mask(zeros, zeros, [], torch.Size((8, 8)))


def test_layers_are_chosen_by_what_a_map_needs():
    """SD1.x at 512 pixels: 16×16; SDXL at 1024: 32×32; the demo model at 128: 16×16."""
    assert chosen_side((1.0, 0.5, 0.25, 0.125), 64, None) == 0.25
    assert chosen_side((0.5, 0.25), 128, None) == 0.25
    assert chosen_side((1.0, 0.5, 0.25), 16, None) == 1.0
    assert chosen_side((0.5, 0.25), 16, None) == 0.5
    assert chosen_side((0.5, 0.25), 16, 0.25) == 0.25
    with pytest.raises(ValueError, match=r"one of 0.5, 0.25 times the latent's, got 1"):
        chosen_side((0.5, 0.25), 16, 1.0)


def test_the_maps_of_an_edited_row_are_those_of_its_edited_attention():
    """As the map viewer and local blend take them: the edit acts on the looks as on any value."""
    generator = torch.Generator().manual_seed(1)
    size = HEADS * WIDTH
    q = torch.randn(ROWS, PIXELS, size, generator=generator, dtype=torch.float64)
    k = torch.randn(ROWS, TOKENS, size, generator=generator, dtype=torch.float64)
    inject = torch.rand(TOKENS, TOKENS, generator=generator, dtype=torch.float64)
    keep = torch.rand(TOKENS, generator=generator, dtype=torch.float64)
    columns = (torch.rand(ROWS, 4, TOKENS, generator=generator) > 0.5).double()
    cross = CrossEdit.of(
        [RowEdit(1, 0, MapEdit(inject, keep, torch.ones(TOKENS).double()))],
        ROWS,
        torch.device("cpu"),
    )
    assert cross is not None
    heads = [x.view(ROWS, -1, HEADS, WIDTH).transpose(1, 2) for x in (q, k)]
    maps = torch.softmax(heads[0] @ heads[1].mT / WIDTH**0.5, dim=-1)
    maps = torch.stack([maps[0], maps[0] @ inject + maps[1] * keep]).mean(1)
    expected = torch.einsum("rpt,rlt->rlp", maps, columns)
    seen = word_maps(partial(cross.attend, attention), q, k, columns, HEADS)
    assert torch.allclose(seen, expected, atol=1e-12)
