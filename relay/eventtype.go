package relay

import "time"

// Sensitivity is how much harm an event does in wrong hands.
type Sensitivity string

// The sensitivities, the least first.
const (
	SensitivityPublic       Sensitivity = "PUBLIC"
	SensitivityInternal     Sensitivity = "INTERNAL"
	SensitivityConfidential Sensitivity = "CONFIDENTIAL"
	SensitivityRestricted   Sensitivity = "RESTRICTED"
)

// Leaving says whether events of a type may leave at all.
type Leaving string

// The values; what is none of them is treated as FORBIDDEN.
const (
	LeavingAllowed   Leaving = "ALLOWED"
	LeavingForbidden Leaving = "FORBIDDEN"
	// LeavingBulk: an export of many records at once. No endpoint can have it.
	LeavingBulk Leaving = "BULK_EXPORT"
)

// EventType is an entry of the event type catalogue: what it says holds for every type that Pattern names and no other entry names
// more closely.
type EventType struct {
	Tenant      string // empty: all
	Pattern     string // see ValidPattern
	Sensitivity Sensitivity
	Leaving     Leaving
	Description string
	Example     string // data of a synthetic event, one JSON object; empty: none
	UpdateTime  time.Time
	Author      string // the account that set it
}
