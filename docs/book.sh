#!/bin/bash
# book.sh: makes the book of README.md and docs in target/book/html. Needs mdbook 0.4.
set -euo pipefail

cd "$(dirname "$0")/.."
src=target/book/src
rm -rf target/book
mkdir -p "$src/docs"
cp README.md CONTRIBUTING.md CHANGELOG.md LICENSE "$src"
cp docs/*.{md,svg,png} "$src/docs"
# What pages link to.
cp -r --parents examples packaging "$src"
# The list of pages is written for its own place in docs, and mdbook wants it beside README.md.
rm "$src/docs/SUMMARY.md"
sed -e 's#](#](docs/#' -e 's#](docs/\.\./#](#' docs/SUMMARY.md >"$src/SUMMARY.md"
# mdbook calls README.md index.html, and has the list beside each page.
sed -i 's#(docs/SUMMARY\.md)#(index.html)#' "$src/README.md"
sed -i 's#(\.\./README\.md#(../index.html#' "$src"/docs/*.md
mdbook build
