"""InfEdit: whose attention is taken, beside its steps written out, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import LCMScheduler
from runs import PROMPT, relative

from p2p_core.demo.scenes import render
from p2p_core.hosts.diffusers.attention import replaced
from p2p_core.hosts.diffusers.pipeline import Model
from p2p_core.hosts.diffusers.sampling import Settings
from p2p_core.lab.pie.infedit import Control, Processor, Words, infedit
from p2p_core.lab.shapes.cases import cases

TOLERANCE = 1e-5
"""Of networks in float64: what is left is the rounding of latents and predictions, 2⁻²³, times the
highest noise level, 15, of images of the size of 1."""


def exact(model):
    """The same model in float64: rows that are the same stay so, whatever place they have."""
    return Model(copy.deepcopy(model.pipeline).to(torch.float64))


@pytest.fixture(scope="module")
def latent(demo):
    (case,) = cases(1, 0)
    return demo.to_latent(render(case.scene)[None])


@pytest.mark.parametrize(
    ("edited", "blended", "source", "new"),
    [
        (PROMPT, (), {}, ()),
        # a word in another's place has its attention
        ("a blue circle on the grass", ("blue",), {2: 2}, ()),
        # more words than there were: one of them has it
        ("a red shiny star on the grass", ("star",), None, (3, 4)),
        # nothing was there
        ("a big red circle on the grass", ("big",), {3: 2, 4: 3, 7: 6}, (2,)),
        # fewer words
        ("a circle on the grass", (), {2: 3, 5: 6}, ()),
        # every occurrence is blended, but for one that is asked for by its number
        ("a red circle on the red grass", ("red",), {2: 2, 7: 6}, (6,)),
        ("a red circle on the red grass", ("red #2",), {2: 2, 7: 6}, (6,)),
    ],
)
def test_words_take_the_attention_of_those_they_stand_for(edited, blended, source, new, demo):
    words = Words.of(demo, PROMPT, edited, blended)
    free = torch.nonzero(words.shared == 0).flatten().tolist()
    if source is None:
        assert len(free) == 1
        assert free[0] in new
        (shared,) = set(new) - set(free)
        assert words.source[shared] == 3
    else:
        assert tuple(free) == new
        assert all(words.source[new] == old for new, old in source.items())
    assert words.source[-1] == demo.length - 1
    after = demo.read(edited)
    marked = torch.nonzero(words.blended).flatten().tolist()
    assert marked == [t for word in blended for t in after.tokens_of(word)]


def test_words_that_took_a_blended_words_place_are_blended(demo):
    words = Words.of(demo, "a red circle on the grass", "a blue circle on the red", ["red"])
    assert torch.nonzero(words.blended).flatten().tolist() == [2, 6]


@pytest.mark.parametrize("following", [True, False])
def test_attention_is_shared(following, demo):
    """Beside formulas written out, on a layer of each kind."""
    blocks = demo.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks
    own, cross = blocks[0].attn1, blocks[0].attn2
    torch.manual_seed(0)
    hidden = torch.randn(6, 16, own.to_q.in_features)
    text = demo.encode(["", "", "", PROMPT, "a blue circle on the grass", PROMPT]).tokens
    words = Words.of(demo, PROMPT, "a big blue circle on the grass", ["blue"])
    assert 0 < words.shared.sum() < demo.length
    control = Control(words, (4, 4))
    control.own, control.cross = following, following

    def maps(layer, q, k):
        q, k = (part.unflatten(-1, (layer.heads, -1)).transpose(0, 1) for part in (q, k))
        return (q @ k.transpose(1, 2) * layer.scale).softmax(-1)

    def output(layer, maps, v):
        v = v.unflatten(-1, (layer.heads, -1)).transpose(0, 1)
        return layer.to_out[0]((maps @ v).transpose(0, 1).flatten(1))

    with torch.no_grad():
        found = Processor(control)(own, hidden)
        for (image, edited, _), got in zip(hidden.chunk(2), found.chunk(2), strict=True):
            looking = [image, image, image] if following else [image, edited, edited]
            looked_at = [image, image, image] if following else [image, edited, image]
            rows = zip(looking, looked_at, [image, edited, image], strict=True)
            wanted = [
                output(own, maps(own, own.to_q(q), own.to_k(k)), own.to_v(v)) for q, k, v in rows
            ]
            assert relative(got, torch.stack(wanted)) <= TOLERANCE

        found = Processor(control)(cross, hidden, text)
        each = [
            maps(cross, cross.to_q(q), cross.to_k(t)) for q, t in zip(hidden, text, strict=True)
        ]
        taken = each[4].clone()
        for new, old in enumerate(words.source.tolist()):
            if words.shared[new]:
                taken[..., new] = each[5][..., old]
        if following:
            each[4] = taken
        wanted = [output(cross, one, cross.to_v(t)) for one, t in zip(each, text, strict=True)]
        assert relative(found, torch.stack(wanted)) <= TOLERANCE
        assert relative(control.seen, taken.mean(0)) <= TOLERANCE
        Processor(control)(cross, hidden, text)
        assert relative(control.seen, 2 * taken.mean(0)) <= TOLERANCE


def test_an_image_is_itself_where_nothing_is_asked_for(demo, latent):
    """Without inversion: the prompt as it is, and no guidance."""
    result = infedit(exact(demo), PROMPT, PROMPT, latent, Settings(4, 1.0), quiet=True)
    assert relative(result.edited, latent) <= TOLERANCE
    assert torch.equal(result.masks, torch.ones(1, 16, 16))
    assert torch.equal(result.source, latent)


def by_hand(model, latent, edited, word, settings, cross_end, self_end):
    """Steps as the paper has them, in signal and noise: the edited latent and the mask."""
    scheduler = LCMScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(settings.steps, original_inference_steps=50)
    unet, signal = model.pipeline.unet, scheduler.alphas_cumprod
    words = Words.of(model, PROMPT, edited, [word])
    control = Control(words, latent.shape[-2:])
    text = model.encode(["", "", "", PROMPT, edited, PROMPT]).tokens
    generator = torch.Generator().manual_seed(settings.seed)
    image = latent * model.scale
    x = torch.randn(latent.shape, generator=generator).repeat(3, 1, 1, 1)
    mask = None
    with torch.no_grad(), replaced(unet, Processor(control)):
        for n, t in enumerate(scheduler.timesteps):
            done = (n + 1) / settings.steps
            control.cross, control.own = cross_end >= done, not self_end <= done
            a = signal[t]
            v = unet(torch.cat([x, x]), t, text).sample
            against, noise = (a.sqrt() * v + (1 - a).sqrt() * torch.cat([x, x])).chunk(2)
            noise[1] = against[1] + settings.cfg * (noise[1] - against[1])
            found = image + (x - x[0] - (1 - a).sqrt() * (noise - noise[0])) / a.sqrt()
            if n + 1 < settings.steps:
                a = signal[scheduler.timesteps[n + 1]]
            fresh = torch.randn(latent.shape, generator=generator)
            x = a.sqrt() * found + (1 - a).sqrt() * fresh
            seen = control.seen[:, words.blended].amax(1).view(latent.shape[-2:])
            least = max(0.55, 0.15 / float(signal[t].sqrt()))
            if n > 0:
                mask = seen / seen.max() > least
                x[1] = torch.where(mask, x[1], x[2])
    return found[1:2] / model.scale, mask[None].float()


@pytest.mark.parametrize(("cross_end", "self_end"), [(0.7, 0.7), (0.84, 0.33), (0.5, 0.0)])
def test_steps_are_those_of_the_paper(cross_end, self_end, demo, latent):
    settings, edited = Settings(6, 2.3, seed=3), "a red star on the grass"
    ends = {"cross_end": cross_end, "self_end": self_end}
    result = infedit(demo, PROMPT, edited, latent, settings, words=["star"], quiet=True, **ends)
    wanted, mask = by_hand(demo, latent, edited, "star", settings, cross_end, self_end)
    assert relative(result.edited, wanted) <= 1e-4
    assert torch.equal(result.masks, mask)
    assert 0 < mask.mean() < 1


def test_words_keep_the_edit_to_where_they_are(demo, latent):
    settings = Settings(6, 3.0)
    edited = "a red star on the grass"
    free, kept, other = (
        infedit(demo, PROMPT, edited, latent, settings, words=words, quiet=True)
        for words in ((), ("star",), ("grass",))
    )
    assert torch.equal(free.masks, torch.ones(1, 16, 16))
    assert not torch.equal(kept.masks, other.masks)
    outside = kept.masks[0] == 0
    change = [(one.edited - latent).abs()[..., outside].mean() for one in (free, kept)]
    assert change[1] < change[0]


def test_half_precision_and_other_shapes(demo):
    edited, words = "a red star on the grass", ["star"]
    latent = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = infedit(demo, PROMPT, edited, latent, Settings(3, 2.3), words=words, quiet=True)
    model = Model.demo()
    model.pipeline.to(torch.bfloat16)
    half = infedit(model, PROMPT, edited, latent, Settings(3, 2.3), words=words, quiet=True)
    assert whole.edited.shape == half.edited.shape == latent.shape
    assert whole.masks.shape == (1, 16, 24)
    assert 0 < relative(half.edited, whole.edited) < 0.2


def test_other_models(sd2, sdxl):
    torch.manual_seed(0)
    latent = torch.randn(1, 4, 16, 16)
    for model in (sd2, sdxl):
        same = infedit(exact(model), PROMPT, PROMPT, latent, Settings(3, 1.0), quiet=True)
        assert relative(same.edited, latent) <= TOLERANCE
        words = ["star"]
        other = infedit(
            model,
            PROMPT,
            "a red star on the grass",
            latent,
            Settings(3, 3.0),
            words=words,
            quiet=True,
        )
        assert other.edited.isfinite().all()
        assert relative(other.edited, latent) > TOLERANCE


def test_wrong_input(demo, latent):
    with pytest.raises(ValueError, match="Expected one image, got 2"):
        infedit(demo, PROMPT, PROMPT, latent.repeat(2, 1, 1, 1), Settings(2, 1.0))
    with pytest.raises(ValueError, match="'dog' is not in the prompt"):
        infedit(demo, PROMPT, PROMPT, latent, Settings(2, 1.0), words=["dog"])
    with pytest.raises(ValueError, match=r"at most 50 steps for InfEdit.* got 51"):
        infedit(demo, PROMPT, PROMPT, latent, Settings(51, 1.0))
    for prompts in (("red " * 80, PROMPT), (PROMPT, "red " * 80)):
        with pytest.raises(ValueError, match="at most 75 tokens"):
            infedit(demo, *prompts, latent, Settings(2, 1.0))
