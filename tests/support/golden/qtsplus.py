"""Golden files of QTSplus: outputs and gradients of the authors' released code, with given noise."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framefold.adapters import VideoTokens
from framefold.adapters.compressors.qtsplus import QTSplus
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.columns import choose_columns, shorten
from framefold.adapters.hosts.prompt.placeholders import expand_placeholders
from framefold.adapters.reference import qtsplus as release

ATOL = 1e-5
HEADS = 4  # of files that do not say
Arrays = dict[str, Any]


def check(data: Any) -> None:
    """Check a file, which contains the pipeline or one of its parts."""
    arrays: Arrays = {key: data[key] for key in data}
    if "ids1" in arrays:
        _check_splice(arrays)
    elif "r_0" in arrays:
        _check_threshold(arrays)
    elif "rho_sum" in arrays:
        _check_sequence(arrays)
    elif "argmax" in arrays:
        _check_fallback(arrays)
    else:
        _check_pipeline(arrays)


def _check_pipeline(arrays: Arrays) -> None:
    model = _model(arrays)
    _check_inference(model, arrays)
    _check_class(model, arrays)
    _check_training(model, arrays)


def _check_inference(model: QTSplus, arrays: Arrays) -> None:
    config, found = _config(arrays), {}
    with torch.no_grad():
        scored = [release.score_tokens(model.scoring, x, q) for x, q in _videos(arrays)]
        ratios = torch.stack([_ratio(model, q, s.r) for (_, q), s in zip(_videos(arrays), scored, strict=True)])
        for i in range(config["n_scoring"]):
            found[f"sc.attn_{i}"] = torch.stack([s.attention[i] for s in scored])
            found[f"sc.q_out_{i}"] = torch.stack([s.question[i] for s in scored])
        r = found["ev.r"] = torch.stack([s.r for s in scored])
        found |= {"ev.p": r / (r.sum(-1, keepdim=True) + release.EPS), "ev.r_max": r.amax(-1), "ev.rho": ratios}
        found["ev.entropy"] = torch.stack([release.entropy(row) for row in r])
        found |= _costs(model, ratios, config, "ev")
        unlimited = [release.count_tokens(ratio, config["M"], config["M"]) for ratio in ratios]
        counts = [release.count_tokens(ratio, config["M"], model.n_max) for ratio in ratios]
        found |= {"ev.n_unclamped": torch.tensor(unlimited), "ev.n": torch.tensor(counts)}
        rows = [release.top_rows(row, n) for row, n in zip(r, counts, strict=True)]
        kept = [x[chosen] for (x, _), chosen in zip(_videos(arrays), rows, strict=True)]
        for b, z in enumerate(release.reencode(model.reencode, kept)):
            alone = release.reencode(model.reencode, [kept[b]])[0]
            found |= {f"ev.indices_{b}": rows[b], f"ev.Z_pre_{b}": kept[b], f"ev.Z_{b}": z, f"ev.Z_alone_{b}": alone}
    if config["B"] == 1:
        assert torch.equal(found.pop("ev.Z_alone_0"), found["ev.Z_0"])
    found |= {"ev.q_mean": torch.from_numpy(arrays["in.Q_t"]).mean(1), "ev.logM": torch.tensor(config["M"]).log()}
    _compare(found, arrays, ("sc.", "ev."))


def _check_class(model: QTSplus, arrays: Arrays) -> None:
    """The compressor processes one video at a time, like the release with a batch of one."""
    model.eval()
    for b, (x, question) in enumerate(_videos(arrays)):
        out = model(VideoTokens.from_grid(x[:, None, None]), question).tokens
        expected = arrays.get(f"ev.Z_alone_{b}", arrays[f"ev.Z_{b}"])
        np.testing.assert_array_equal(out.index, arrays[f"ev.indices_{b}"])
        np.testing.assert_allclose(out.features.detach(), expected, rtol=0, atol=ATOL)


def _check_training(model: QTSplus, arrays: Arrays) -> None:
    config, found = _config(arrays), {}
    model.zero_grad()
    videos = [(x.requires_grad_(), q) for x, q in _videos(arrays)]
    scored = [release.score_tokens(model.scoring, x, q).r for x, q in videos]
    ratios = torch.stack([_ratio(model, q, r) for (_, q), r in zip(videos, scored, strict=True)])
    noise = torch.from_numpy(arrays["tr.gumbel"])
    gates = [release.sample_gate(r, ratios[b] * config["M"], model.tau, noise[b]) for b, r in enumerate(scored)]
    kept = [release.gate_tokens(x, gate) for (x, _), gate in zip(videos, gates, strict=True)]
    z = release.reencode(model.reencode, kept)
    for b, gate in enumerate(gates):
        found |= {f"tr.indices_{b}": gate.rows, f"tr.Z_{b}": z[b]}
    losses = _costs(model, ratios, config, "tr")
    loss = sum(out.square().mean() for out in z) + sum(losses.values())
    loss.backward()
    found |= losses | {"tr.rho": ratios, "tr.gumbel": noise, "tr.scalar_loss": loss}
    found["tr.threshold_newton10"] = torch.stack([gate.t for gate in gates])
    found["tr.logits"] = torch.stack([gate.logits for gate in gates])
    found["tr.y_soft_keep"] = torch.stack([gate.soft for gate in gates])
    found["tr.keep"] = torch.stack([gate.hard > 0.5 for gate in gates])
    for steps in (10, 60):
        pairs = zip(scored, ratios, strict=True)
        found[f"tr.threshold_bisect{steps}"] = torch.stack(
            [bisect(r, ratio * config["M"], model.tau, steps) for r, ratio in pairs]
        )
    found["tr.n_reported"] = torch.tensor([release.count_tokens(ratio, config["M"], model.n_max) for ratio in ratios])
    found["tr.grad_X_v"] = torch.stack([x.grad for x, _ in videos])
    _compare(found | _gradients(model, arrays), arrays, ("tr.",))
    untouched = {_theirs(key) for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == set(arrays["unused_params"].tolist())


def _gradients(model: QTSplus, arrays: Arrays) -> Arrays:
    found = {f"tr.grad.{_theirs(key)}": p.grad for key, p in model.named_parameters()}
    return {key: value for key, value in found.items() if key in arrays}


def _check_threshold(arrays: Arrays) -> None:
    """Single iterates, also where they diverge and reach 1e7."""
    ratios = torch.from_numpy(arrays["rho"])
    compared = {"rho"} | {key for key in arrays if re.fullmatch(r"(r|tau)_\d+", key)}
    for key in arrays:
        if key in compared:
            continue
        kind, case, steps = re.fullmatch(r"(newton|bisect)_(\d+)_it(\d+)", key).groups()  # type: ignore[union-attr]
        r, tau = torch.from_numpy(arrays[f"r_{case}"]), float(arrays[f"tau_{case}"])
        method = release.newton if kind == "newton" else bisect
        found = torch.stack(
            [method(row, ratio * len(row), tau, int(steps)) for row, ratio in zip(r, ratios, strict=True)]
        )
        np.testing.assert_allclose(found, arrays[key], rtol=1e-6, atol=ATOL, err_msg=key)


def _check_sequence(arrays: Arrays) -> None:
    """The running mean over consecutive calls."""
    model, mean = _model(arrays), release.RunningMean()
    for i, (x, question) in enumerate(zip(arrays["X_v"], arrays["Q_t"], strict=True)):
        video = VideoTokens.from_grid(torch.from_numpy(x[0])[:, None, None])
        words = torch.from_numpy(question[0])
        ratio = _ratio(model, words, release.score_tokens(model.scoring, video.features, words).r)
        smooth = release.budget_costs(ratio[None], len(video), model.n_max, mean.add(ratio[None]))["smooth"]
        loss = model.eval()(video, words).losses["smooth"] if i % 2 else model.train()(video, words).losses["smooth"]
        np.testing.assert_allclose(ratio.detach(), arrays["rho"][i, 0], rtol=0, atol=ATOL)
        np.testing.assert_allclose(mean.total, arrays["rho_sum"][i], rtol=0, atol=ATOL)
        np.testing.assert_allclose(0.05 * smooth.detach(), arrays["loss_smooth"][i], rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(loss.detach(), arrays["loss_smooth"][i], rtol=1e-3, atol=1e-9)


def _check_fallback(arrays: Arrays) -> None:
    """Noise that drops every token."""
    model = _model(arrays)
    x, question = torch.from_numpy(arrays["X_v"]), torch.from_numpy(arrays["Q_t"])
    never = torch.tensor([-1e4, 1e4]).expand(x.shape[1], 2)
    r = torch.stack([release.score_tokens(model.scoring, *video).r for video in zip(x, question, strict=True)])
    np.testing.assert_allclose(r.detach(), arrays["r"], rtol=0, atol=ATOL)
    np.testing.assert_array_equal(r.argmax(-1), arrays["argmax"])
    counts = [_ratio(model, q, row) * x.shape[1] for q, row in zip(question, r, strict=True)]
    gates = [release.sample_gate(row, count, model.tau, never) for row, count in zip(r, counts, strict=True)]
    z = release.reencode(model.reencode, [release.gate_tokens(*pair) for pair in zip(x, gates, strict=True)])
    for b, gate in enumerate(gates):
        np.testing.assert_array_equal(gate.rows, arrays["indices"][b])
        np.testing.assert_allclose(z[b].detach(), arrays[f"Z_{b}"], rtol=0, atol=ATOL)


def _check_splice(arrays: Arrays) -> None:
    """Check the functions that shorten prompts; case 1 has one placeholder for all tokens, case 2 one for each.

    framefold requires labels of -100 on a video, and the release sets them, so in case 2 they are set here.
    """
    placeholder, tokens = int(arrays["placeholder_id"]), torch.from_numpy(arrays["V"])
    for case, kept in ("1", range(len(tokens))), ("2", arrays["kept2"]):
        names = {"input_ids": f"ids{case}", "attention_mask": f"mask{case}", "labels": f"labels{case}"}
        inputs = {name: torch.from_numpy(arrays[key]) for name, key in names.items()}
        inputs["labels"] = inputs["labels"].masked_fill(inputs["input_ids"] == placeholder, -100)
        if case == "1":
            inputs = expand_placeholders(inputs, placeholder, [len(tokens)])
        where = (inputs["input_ids"] == placeholder).nonzero()
        video = VideoTokens.from_grid(torch.zeros(len(where), 1, 1, tokens.shape[1]))
        out = replace(video.keep(torch.tensor(kept)), features=tokens)
        keep, streams = choose_columns(inputs["input_ids"], where, [Encoded.from_grid(video.as_grid())], [out])
        plan, layers = shorten(inputs, keep, where, streams, [0], left=False)
        ids = plan.gather(inputs["input_ids"], 0)
        embedded = torch.from_numpy(arrays["emb"])[ids]
        embedded[ids == placeholder] = torch.cat(layers[0])
        np.testing.assert_array_equal(embedded, arrays[f"out{case}"])
        np.testing.assert_array_equal(plan.gather(inputs["attention_mask"], 0), arrays[f"mask{case}_out"])
        np.testing.assert_array_equal(plan.gather(inputs["labels"], -100), arrays[f"labels{case}_out"])


def _model(arrays: Arrays) -> QTSplus:
    """The compressor of a file with its weights, all of which must find their place."""
    weights = {_ours(key[2:]): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("w.")}
    config = _config(arrays)
    low, high = arrays.get("rho_min_max", (0.05, 0.5))
    flops, kv, smooth = arrays.get("lambdas_t_m_s", (0.1, 0.17, 0.05))
    width = len(weights["scoring.0.q_norm.weight"])
    heads = config.get("n_heads", HEADS)
    model = QTSplus(
        "auto", variant="official", dim=width, heads=heads,
        kv_heads=len(weights["scoring.0.k_proj.weight"]) * heads // width,
        scoring_layers=_depth(weights, "scoring"), reencode_layers=_depth(weights, "reencode"),
        tau=float(arrays.get("tau_s", 0.5)), rho_min=float(low), rho_max=float(high), n_max=config.get("nmax", 2560),
        cost_flops=float(flops), cost_kv=float(kv), cost_smooth=float(smooth),
    )  # fmt: skip
    missing, extra = model.load_state_dict(weights, strict=False)
    assert not extra and all(key.startswith("head.") and not key.startswith("head.mlp") for key in missing)
    return model


def _config(arrays: Arrays) -> dict[str, int]:
    return dict(zip(arrays["cfg_names"].tolist(), arrays["cfg"].tolist(), strict=True)) if "cfg" in arrays else {}


def _depth(weights: dict[str, Tensor], name: str) -> int:
    return len({key.split(".")[1] for key in weights if key.startswith(f"{name}.")})


def _ours(key: str) -> str:
    renamed = key.replace("scoring_layers", "scoring").replace("reencode_layers", "reencode").replace(".core.", ".")
    return renamed.replace("ffn.net", "ffn").replace("budget.", "head.")


def _theirs(key: str) -> str:
    renamed = re.sub(r"^reencode\.(\d+)", r"reencode_layers.\1.core", re.sub(r"^scoring", "scoring_layers", key))
    return renamed.replace(".ffn.", ".ffn.net.").replace("head.", "budget.")


def _videos(arrays: Arrays) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(arrays["in.X_v"], arrays["in.Q_t"], strict=True)
    return [(torch.from_numpy(x.copy()), torch.from_numpy(q)) for x, q in pairs]


def _ratio(model: QTSplus, question: Tensor, r: Tensor) -> Tensor:
    assert model.head is not None
    return release.predict_ratio(model.head, question, r)


def _costs(model: QTSplus, ratios: Tensor, config: dict[str, int], prefix: str) -> Arrays:
    mean = release.RunningMean().add(ratios.detach())
    weights = {"flops": model.cost_flops, "kv": model.cost_kv, "smooth": model.cost_smooth}
    costs = release.budget_costs(ratios, config["M"], model.n_max, mean)
    return {f"{prefix}.loss_{name}": weights[name] * cost for name, cost in costs.items()}


def bisect(r: Tensor, count: Tensor, tau: float, steps: int) -> Tensor:
    """The reference of the files: bisection of an interval that extends 6 tau beyond the scores."""
    low, high = r.min() - 6 * tau, r.max() + 6 * tau
    for _ in range(steps):
        middle = (low + high) / 2
        few = torch.sigmoid((r - middle) / tau).sum() < count
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    return (low + high) / 2


def _compare(found: Arrays, arrays: Arrays, prefixes: tuple[str, ...]) -> None:
    wanted = {key for key in arrays if key.startswith(prefixes)}
    unused: set[str] = {key for key in found if "Z_alone" in key and key not in wanted}
    assert wanted == set(found) - unused, wanted ^ set(found)
    for key in wanted:
        value = found[key].detach().numpy() if isinstance(found[key], nn.Parameter | Tensor) else found[key]
        if np.issubdtype(arrays[key].dtype, np.floating):
            np.testing.assert_allclose(value, arrays[key], rtol=0, atol=ATOL, err_msg=key)
        else:
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)
