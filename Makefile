# Everything here needs Go alone. Generated code is committed: `make generate` is for who changes proto/.

TOOL = go tool -modfile=proto/tools.mod

.PHONY: generate generate-check

generate:
	$(TOOL) buf lint
	$(TOOL) buf generate --template proto/buf.gen.yaml

# Fails where the committed code is not what proto/ makes.
generate-check: generate
	git diff --exit-code -- proto
	test -z "$$(git status --porcelain -- proto)"
