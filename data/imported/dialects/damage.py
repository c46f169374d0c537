"""Why a row of annotations, or the video that it names, cannot be imported: every kind has a name."""

from __future__ import annotations

DAMAGE: dict[str, str] = {
    # The file
    "not_json": "a line is not valid JSON",
    "cut_off": "the JSON of the file is damaged here; the rows after it are not read",
    "not_csv": "a row cannot be parsed as CSV",
    "wrong_columns": "a CSV row has more or fewer fields than the header",
    "not_utf8": "a row is not UTF-8 text",
    "too_large": "a line is larger than the limit",
    "not_an_object": "a row is not a JSON object",
    # The conversation
    "no_turns": "a row has no list of turns, or an empty one",
    "unknown_role": "a turn is of a role other than user, assistant and system",
    "wrong_order": "turns do not alternate between user and assistant, or do not begin with the user",
    "unanswered": "the last question has no answer",
    "not_text": "a field that must be text is something else",
    "empty_question": "a question has no text apart from tags",
    "empty_answer": "an answer is empty",
    "special_token": "a text contains a special token of hosts",
    "unstorable": "a text has no visible letter, or half of a surrogate pair",
    "wrong_answer": "the answer names none of the options",
    "wrong_options": "options are fewer than two, equal, or not a list of texts",
    "misplaced_tag": "a tag of the video is inside a text or in a later turn, but hosts read the video first",
    "repeated_tag": "a question has several tags for one video",
    "wrong_time": "a time is not seconds from 0 on, or an interval ends before it starts",
    "uneven_lists": "there are not as many intervals as captions",
    # The video
    "no_video": "a row names no video",
    "several_videos": "a row names several videos; a sample has one",
    "has_images": "a row has images, which shards of videos do not store",
    "remote_video": "a video is a URL: download it first",
    "outside_root": "the path of a video leads out of the folder of videos",
    "missing_video": "there is no such file",
    "not_a_file": "the path of a video is a folder",
    "empty_file": "the file of a video is empty",
    "unreadable_file": "the file of a video cannot be read",
    "not_a_video": "the file is not a video that FFmpeg knows",
    "no_video_stream": "the file has sound or pictures, but no video",
    "damaged_video": "frames that are needed do not decode, and no good ones are near",
    "outside_video": "a question is about a time after the end of the video",
}


class RefusedRow(Exception):
    """A row of annotations, a conversation in it, or the video that it names cannot be imported.

    Args:
        kind: a key of :data:`DAMAGE`.
        detail: what was found, for the list of damage.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        assert kind in DAMAGE, kind

    def __reduce__(self) -> tuple[type[RefusedRow], tuple[str, str]]:
        return type(self), (self.kind, self.detail)
