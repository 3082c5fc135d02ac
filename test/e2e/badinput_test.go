package e2e_test

import (
	"github.com/sealpost/sealpost/test/rig"
)

// violated tells whether an error names the field among its violations, with a rule.
func violated(a rig.Answer, field string) bool {
	for _, detail := range a.L("details") {
		for _, v := range detail.L("fieldViolations") {
			if v.S("field") == field && v.S("description") != "" {
				return true
			}
		}
	}
	return false
}
