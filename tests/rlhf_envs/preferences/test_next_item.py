"""What scores pairs prints nothing of transformers' own."""

import logging

import numpy as np

from rlhf_envs.preferences.next_item import embed_texts


def test_embedding_texts_prints_no_table_of_the_weights_left_out() -> None:
    # "tiny-reward" has a score head that the bare backbone leaves out; transformers reports each such weight.
    said: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, heard = logging.getLogger("transformers"), Heard()
    logger.addHandler(heard)
    try:
        vectors = embed_texts(["i loved it", "i left early"])
    finally:
        logger.removeHandler(heard)
    assert vectors.shape[0] == 2 and np.isfinite(vectors).all()
    assert said == []
