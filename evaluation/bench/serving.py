"""Latency and throughput of servers that answer questions about videos: the command ``framefold bench serve``."""

from __future__ import annotations

import base64
import itertools
import mimetypes
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import encode_video
from framefold.errors import ConfigError
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.version import __version__

from .openai_client import OpenAIServer, Reply

QUESTION = "What happens in this video? Describe it from its beginning to its end."

Measurement = dict[str, Any]


def bench_serve(
    urls: list[str],
    concurrency: list[int] = [1, 8, 32],  # noqa: B006 (read only; a list for the command line)
    requests: int = 32,
    videos: list[str] | None = None,
    frames: int = 64,
    size: int = 224,
    question: str = QUESTION,
    max_tokens: int = 64,
    timeout: float = 600.0,
    seed: int = 0,
    out: str | None = None,
) -> list[Measurement]:
    """Measure how fast servers with OpenAI's interface answer questions about videos.

    To see what a compressor saves, start two servers of one host, one with and one without it, and name both. At each
    concurrency, so many requests are always under way; a new one starts when another has ended. Servers take turns.

    Args:
        urls: addresses of servers, as http://localhost:8000.
        concurrency: numbers of requests at the same time.
        requests: number of requests for each concurrency, at least one for each that is under way.
        videos: video files, sent in turn. The server may have cached a video that it has seen. By default every
            request has a new synthetic video, so nothing is cached.
        frames: length of the synthetic videos.
        size: height and width of the synthetic videos in pixels.
        question: the question about each video.
        max_tokens: length of every answer in tokens; the end that the model would choose is ignored.
        timeout: most seconds of one request.
        seed: seed of the synthetic videos.
        out: JSON file for the result.

    Returns:
        One dictionary per server and concurrency: url, model, concurrency, requests, seconds, requests_per_second,
        first_token_median, first_token_p90, between_tokens_median (None if answers have one token), prompt_tokens,
        and tokens of an answer.

    Raises:
        ConfigError: a setting is out of range, or a file cannot be read.
        ServingError: a server refuses a request, breaks an answer off or takes too long.
        DataError: the synthetic videos cannot be made.
    """
    _check(urls, concurrency, requests, max_tokens, timeout)
    servers = [OpenAIServer(url, timeout) for url in dict.fromkeys(urls)]
    names = [server.model() for server in servers]
    clips = _stored(videos) if videos is not None else _generated(frames, size, seed)
    rows: list[Measurement] = []
    try:
        turns = [(server, name, level) for level in concurrency for server, name in zip(servers, names, strict=True)]
        for server, name in zip(servers, names, strict=True):
            server.ask(_chat(name, next(clips), question, max_tokens))  # compiles kernels and fills pools of memory
        for server, name, level in progress_bar(turns, "bench serve", unit="level", leave=False):
            count = max(requests, level)
            chats = [_chat(name, clip, question, max_tokens) for clip in itertools.islice(clips, count)]
            replies, seconds = _load(server, chats, level)
            rows.append({"url": server.url, "model": name, "concurrency": level} | load_summary(replies, seconds))
    finally:
        for server in servers:
            server.close()
    print(_table(rows))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        settings = dict(videos=videos, frames=frames, size=size, question=question, max_tokens=max_tokens, seed=seed)
        write_json(Path(out), {"framefold": __version__, **settings, "rows": rows}, indent=2)
    return rows


def load_summary(replies: Sequence[Reply], seconds: float) -> Measurement:
    """Return medians of the times of answers, and the throughput."""
    first = sorted(reply.first for reply in replies)
    between = [reply.between for reply in replies if reply.between is not None]
    return {
        "requests": len(replies),
        "seconds": seconds,
        "requests_per_second": len(replies) / seconds,
        "first_token_median": statistics.median(first),
        "first_token_p90": first[-(-9 * len(first) // 10) - 1],
        "between_tokens_median": statistics.median(between) if between else None,
        "prompt_tokens": statistics.median(reply.prompt_tokens for reply in replies),
        "tokens": statistics.median(reply.tokens for reply in replies),
    }


def _check(urls: list[str], concurrency: list[int], requests: int, max_tokens: int, timeout: float) -> None:
    if not urls or not concurrency:
        raise ConfigError("name at least one server and one concurrency")
    if min(*concurrency, requests, max_tokens) < 1 or timeout <= 0:
        got = f"{concurrency}, {requests}, {max_tokens}, {timeout:g}"
        raise ConfigError(f"concurrency, requests and max_tokens must be at least 1, and timeout positive, got {got}")


def _stored(files: list[str]) -> Iterator[str]:
    """Yield the files as URLs, again and again."""
    clips = []
    for file in files:
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        clips.append(_url(data, mimetypes.guess_type(file)[0] or "video/mp4"))
    if not clips:
        raise ConfigError("videos names no file: leave it out for synthetic videos")
    return itertools.cycle(clips)


def _generated(frames: int, size: int, seed: int) -> Iterator[str]:
    """Yield synthetic videos as URLs, all of them different."""
    for index in itertools.count():
        video = generate(index, seed=seed, split="test", frames=frames, size=size)
        yield _url(encode_video(video.frames, video.times), "video/mp4")


def _url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _chat(model: str, url: str, question: str, tokens: int) -> dict[str, Any]:
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return {
        "model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": tokens,
        "ignore_eos": True,
    }  # fmt: skip


def _load(server: OpenAIServer, chats: Iterable[dict[str, Any]], concurrency: int) -> tuple[list[Reply], float]:
    """Send the chats with so many under way, and return the replies and the seconds from the first to the last."""
    with ThreadPoolExecutor(concurrency, "bench-serve") as pool:
        start = time.perf_counter()
        futures = [pool.submit(server.ask, chat) for chat in chats]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((error for future in done if (error := future.exception()) is not None), None)
            if failed is not None:
                raise failed
            return [future.result() for future in futures], time.perf_counter() - start
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            server.close()  # ends the requests that are under way, so that their threads return
            raise


def _table(rows: list[Measurement]) -> str:
    longest = max(len(row["url"]) for row in rows)
    lines = [
        f"{'server':<{longest}} {'at once':>7} {'requests':>8} {'requests/s':>10} {'first token':>11} {'90 %':>8}"
        f" {'between tokens':>14} {'prompt':>7}"
    ]
    for row in rows:
        between = "" if row["between_tokens_median"] is None else f"{row['between_tokens_median'] * 1e3:.1f} ms"
        lines.append(
            f"{row['url']:<{longest}} {row['concurrency']:>7} {row['requests']:>8} {row['requests_per_second']:>10.2f}"
            f" {row['first_token_median'] * 1e3:>8.0f} ms {row['first_token_p90'] * 1e3:>5.0f} ms {between:>14}"
            f" {row['prompt_tokens']:>7g}"
        )
    return "\n".join(lines)
