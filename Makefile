# Everything here needs Go alone. Generated code is committed: `make generate` is for who changes proto/.

TOOL = go tool -modfile=proto/tools.mod

.PHONY: generate generate-check release

VERSION ?= dev

# One static binary, without cgo.
release:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/sealpost ./cmd/sealpost

generate:
	$(TOOL) buf lint
	$(TOOL) buf generate --template proto/buf.gen.yaml

# Fails where the committed code is not what proto/ makes.
generate-check: generate
	git diff --exit-code -- proto
	test -z "$$(git status --porcelain -- proto)"
