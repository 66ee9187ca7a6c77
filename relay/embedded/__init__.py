"""The platform in small: the HTTP contract, a store and pages, so that the relay runs alone on a fresh machine.

:class:`relay.embedded.backend.Backend` is the way in.  This package imports nothing by itself, because the
processes that render templates (:mod:`relay.embedded.render_worker`) start with it and must stay light.
"""
