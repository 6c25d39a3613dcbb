FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements.lock ./
# Without pip of its own: nothing is installed into a finished image.
RUN python -m venv --without-pip .venv \
 && pip --python .venv/bin/python install --only-binary :all: --require-hashes -r requirements.lock
COPY worker.sh ./
COPY schemas ./schemas
COPY handlers ./handlers
COPY reactor ./reactor
# Compiled now, since later nobody may write here.
RUN printf '#!/bin/sh\nexec /app/.venv/bin/python -m reactor "$@"\n' > .venv/bin/reactor \
 && chmod 755 .venv/bin/reactor worker.sh \
 && echo /app > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/reactor.pth" \
 && .venv/bin/python -m compileall -q schemas handlers reactor

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="reactor" \
      org.opencontainers.image.description="A campaign engine on MongoDB: batch requests in, conversations led to their end."
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
# Nothing is written but the heartbeat, in /tmp: the root file system may be read-only.
USER 10001:10001
STOPSIGNAL SIGTERM
# The start-up check takes up to a minute.
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s CMD ["/app/worker.sh", "health"]
ENTRYPOINT ["/app/worker.sh"]
CMD ["run"]
