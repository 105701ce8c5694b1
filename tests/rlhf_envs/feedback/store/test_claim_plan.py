"""How the databases find the next item among 10,000: by the index of the queue, under every policy."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.settings import NEXT_ITEM


@pytest.mark.parametrize("trains", [False, True])
def test_the_next_item_is_found_by_the_index_of_the_queue(store_url: str, trains: bool) -> None:
    with FeedbackStore(store_url, seed=0) as store:
        store.add_annotator("ann")
        gold = NewItem("rating", "gold", ("c",), gold={"rating": 3}, meta={"explanation": "because"}, priority=1)
        ids = store.add_items([gold, *(NewItem("rating", f"p{i}", ("c" * 200,), overlap=2) for i in range(10_000))])
        if trains:
            store.update_settings(training={"n_items": 1, "items": ids[:1]})
        engine, asked = store._database.engine, []

        @sa.event.listens_for(engine, "before_cursor_execute")
        def note(_c: Any, _k: Any, statement: str, values: Any, *_: Any) -> None:
            if "ORDER BY items.priority" in statement:
                asked.append((statement, values))

        for policy in NEXT_ITEM:
            store.update_settings(next_item=policy)
            if policy not in ("age", "random"):
                store.set_scores({item_id: float(item_id % 97) for item_id in ids})
            if not store._database.is_sqlite:
                with store._database.write() as connection:
                    connection.execute(sa.text("ANALYZE"))
            asked.clear()
            task = store.claim("ann")
            assert task is not None
            store.release(task.id, "ann")
            statement, values = asked[0]
            explain = "EXPLAIN QUERY PLAN " if store._database.is_sqlite else "EXPLAIN "
            with store._database.write() as connection:
                plan = "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, values))
            assert "items_in_queue" in plan, (policy, plan)
            assert "Seq Scan on items" not in plan, (policy, plan)
            assert "TEMP B-TREE" not in plan, (policy, plan)
            assert "Sort" not in plan, (policy, plan)
