// Package sealpostv1 is the API and the journal's records, generated from the .proto files beside it; the REST face
// follows http.yaml. It holds no logic, but for the inventory as CSV, and trusts nobody: what a message may hold is checked where it is used.
package sealpostv1

import _ "embed"

//go:embed sealpost.swagger.json
var openAPI string

// OpenAPI is the REST face as an OpenAPI 2.0 document in JSON.
func OpenAPI() string { return openAPI }
