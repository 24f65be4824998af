"""
A small shop: prices from a cache, search in a database, quotes from a thread pool, orders through a work queue.

    pip install -r examples/shop/requirements.txt
    gunicorn -c examples/shop/gunicorn.conf.py examples.shop.app:app
    python -m examples.shop.load --url http://127.0.0.1:8000

It is fast until one of three faults is switched on; see `faults.py`.
"""
