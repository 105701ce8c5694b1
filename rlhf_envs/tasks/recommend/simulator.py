"""Make viewers with latent tastes, films with latent qualities, and what the viewers think of the films.

The model behind the rows, all numbers drawn once from a fixed seed:

- 8 genres with 20 films each. A film has a main genre, which a word of its title tells, and in half of the cases a
  second one, which nothing tells; its genre vector has 1 for the first and 0.5 for the second. Its quality is normal
  with standard deviation 0.4. Its popularity falls as 1 / (rank + 5), the rank being by quality plus noise of that
  size.
- A viewer's taste is a number per genre: normal with standard deviation 0.3, plus 1.5 for two favourite genres, minus 1
  for one that is disliked.
- A rating is 3 + taste . genres + quality + noise (standard deviation 0.4), rounded and cut to 1..5.
- The history is of 5 films that the viewer rates 4 or 5, drawn by popularity. The 10 candidates are drawn from the
  others, evenly, until at least one is rated 4 or 5 and one below.

Popular films are better on average, and tastes differ, so popularity alone says little. Viewers of different splits are
different.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

__all__ = ["Film", "make_films", "make_rows"]

GENRES = {
    "war": ("battle", "army", "soldier", "general", "enemy"),
    "space": ("planet", "star", "alien", "moon", "robot"),
    "crime": ("killer", "police", "murder", "prison", "thief"),
    "horror": ("ghost", "monster", "vampire", "blood", "zombie"),
    "romance": ("love", "wedding", "kiss", "heart", "bride"),
    "comedy": ("fool", "joke", "party", "clown", "laugh"),
    "family": ("dog", "school", "mother", "boy", "game"),
    "music": ("song", "dance", "band", "singer", "voice"),
}
ADJECTIVES = (
    "first", "last", "great", "little", "old", "new", "dark", "white", "black", "red", "perfect", "secret", "lost",
    "wild", "true", "strange",
)  # fmt: skip
PER_GENRE = 20
VIEWERS = {"train": 2400, "validation": 200, "test": 500}
HISTORY, CANDIDATES = 5, 10


class Film(NamedTuple):
    """Hold a film: its title, genres (the main one first), quality, and popularity as a share of all views."""

    title: str
    genres: tuple[str, ...]
    quality: float
    popularity: float


@cache
def make_films() -> tuple[Film, ...]:
    """Return the catalogue of 160 films."""
    rng = random.Random("films")
    names = [
        (genre, f"{adjective} {noun}")
        for genre, nouns in GENRES.items()
        for adjective, noun in rng.sample([(a, n) for n in nouns for a in ADJECTIVES], PER_GENRE)
    ]
    qualities = [rng.gauss(0, 0.4) for _ in names]
    order = sorted(range(len(names)), key=lambda i: -qualities[i] - rng.gauss(0, 0.4))
    weights = {i: 1 / (rank + 5) for rank, i in enumerate(order)}
    films = []
    for i, (genre, title) in enumerate(names):
        second = rng.choice([other for other in GENRES if other != genre])
        genres = (genre, second) if rng.random() < 0.5 else (genre,)
        films.append(Film(title, genres, qualities[i], weights[i] / sum(weights.values())))
    return tuple(films)


def make_taste(rng: random.Random) -> dict[str, float]:
    """Return a viewer's taste, a number per genre."""
    taste = {genre: rng.gauss(0, 0.3) for genre in GENRES}
    liked, also_liked, disliked = rng.sample([*GENRES], 3)
    for genre, change in ((liked, 1.5), (also_liked, 1.5), (disliked, -1.0)):
        taste[genre] += change
    return taste


def rate(film: Film, taste: dict[str, float], rng: random.Random) -> int:
    """Return a viewer's rating of a film, 1 to 5."""
    main, *second = film.genres
    liking = taste[main] + sum(0.5 * taste[genre] for genre in second)
    return min(5, max(1, round(3 + liking + film.quality + rng.gauss(0, 0.4))))


def make_row(rng: random.Random) -> dict[str, Any]:
    """Return the row of a new viewer, without a prompt: history, candidates, and what is known of these."""
    films = make_films()
    while True:
        taste = make_taste(rng)
        ratings = {film: rate(film, taste, rng) for film in films}
        liked = [film for film in films if ratings[film] >= 4]
        if len(liked) < HISTORY:
            continue
        history: list[Film] = []
        while len(history) < HISTORY:
            (film,) = rng.choices(liked, [film.popularity for film in liked])
            history += [] if film in history else [film]
        candidates = rng.sample([film for film in films if film not in history], CANDIDATES)
        given = [ratings[film] for film in candidates]
        if max(given) >= 4 and min(given) < 4:
            return {
                "history": [film.title for film in history],
                "history_genres": [[*film.genres] for film in history],
                "candidates": [film.title for film in candidates],
                "ratings": given,
                "genres": [[*film.genres] for film in candidates],
                "popularity": [round(film.popularity, 6) for film in candidates],
            }


@cache
def _rows(split: str) -> Sequence[dict[str, Any]]:
    rng = random.Random(f"viewers {split}")
    return [make_row(rng) for _ in range(VIEWERS[split])]


def make_rows(split: str) -> list[dict[str, Any]]:
    """Return the rows of a split. They are the same every time."""
    return [dict(row) for row in _rows(split)]
