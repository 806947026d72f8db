from itertools import permutations

from mammo_ml.data_docs import offline_page


def test_the_values_of_a_failing_row_are_shown_in_one_order_whatever_the_process():
    pages = {
        offline_page(f"<head></head><td><div>({', '.join(order)})</div></td>")
        for order in permutations(("'1024.0'", "'0.0'", "'mdb110'"))
    }
    assert len(pages) == 1
    assert "('0.0', '1024.0', 'mdb110')" in pages.pop()
