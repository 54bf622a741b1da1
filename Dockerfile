# An image that serves the embedded demo model, or with other arguments any model:
#   docker build -t coppice:0.1.0 .
#   docker run --init -p 8000:8000 -v coppice-cache:/var/cache/coppice coppice:0.1.0
# Checked with hadolint 2.15.1 (see CONTRIBUTING.md); its steps were run by hand, the image itself was not built.

FROM node:24.20.0-trixie-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src src
# The inference library brings the binaries of five platforms; without four of them node_modules has 70 MB, not 313.
RUN npm run build \
  && npm prune --omit=dev --ignore-scripts \
  && find node_modules/onnxruntime-node/bin ! -type d \
    ! -path "*/linux/$(node -p process.arch)/*" -delete

FROM node:24.20.0-trixie-slim
ENV NODE_ENV=production \
  COPPICE_CACHE_DIR=/var/cache/coppice
# A new volume takes over the owner of the folder that it covers.
RUN install -d -o node -g node /var/cache/coppice
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY config config
COPY models models
# The number of `node`: orchestrators can tell that it is not root.
USER 1000:1000
VOLUME /var/cache/coppice
EXPOSE 8000
# The first start builds the model's graphs into the cache.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=1s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.COPPICE_PORT || 8000) + '/ready').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "--single-threaded-gc", "/app/dist/main.js"]
CMD ["serve", "--host", "0.0.0.0"]
