package sealpostv1

import (
	"bytes"
	"encoding/csv"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// inventoryColumns are the columns of the inventory in CSV, in JSON's names.
var inventoryColumns = []struct {
	name string
	text func(*InventoryEntry) string
}{
	{"endpointId", (*InventoryEntry).GetEndpointId},
	{"tenant", (*InventoryEntry).GetTenant},
	{"url", (*InventoryEntry).GetUrl},
	{"owner", (*InventoryEntry).GetOwner},
	{"purpose", (*InventoryEntry).GetPurpose},
	{"environment", func(e *InventoryEntry) string { return e.GetEnvironment().String() }},
	{"state", func(e *InventoryEntry) string { return e.GetState().String() }},
	{"objects", func(e *InventoryEntry) string { return strings.Join(e.GetObjects(), " ") }},
	{"fields", func(e *InventoryEntry) string { return strings.Join(e.GetFields(), " ") }},
	{"eventTypes", func(e *InventoryEntry) string { return strings.Join(e.GetEventTypes(), " ") }},
	{"authMethods", func(e *InventoryEntry) string { return strings.Join(e.GetAuthMethods(), " ") }},
	{"shortLived", func(e *InventoryEntry) string { return strconv.FormatBool(e.GetShortLived()) }},
	{"keyId", (*InventoryEntry).GetKeyId},
	{"keyCreateTime", func(e *InventoryEntry) string { return rfc3339(e.GetKeyCreateTime()) }},
	{"clientCertificateExpireTime", func(e *InventoryEntry) string { return rfc3339(e.GetClientCertificateExpireTime()) }},
	{"serverCertificateExpireTime", func(e *InventoryEntry) string { return rfc3339(e.GetServerCertificateExpireTime()) }},
	{"tokenLifeSeconds", func(e *InventoryEntry) string {
		if e.GetTokenLife() == nil {
			return ""
		}
		return strconv.FormatInt(e.GetTokenLife().GetSeconds(), 10)
	}},
	{"registrant", (*InventoryEntry).GetRegistrant},
	{"createTime", func(e *InventoryEntry) string { return rfc3339(e.GetCreateTime()) }},
	{"approver", (*InventoryEntry).GetApprover},
	{"approveTime", func(e *InventoryEntry) string { return rfc3339(e.GetApproveTime()) }},
	{"reviewer", (*InventoryEntry).GetReviewer},
	{"reviewTime", func(e *InventoryEntry) string { return rfc3339(e.GetReviewTime()) }},
	{"reviewDueTime", func(e *InventoryEntry) string { return rfc3339(e.GetReviewDueTime()) }},
	{"reviewOverdue", func(e *InventoryEntry) string { return strconv.FormatBool(e.GetReviewOverdue()) }},
	{"approvalPending", func(e *InventoryEntry) string { return strconv.FormatBool(e.GetApprovalPending()) }},
	{"proofMethod", func(e *InventoryEntry) string {
		if e.GetProof().GetMethod() == DomainProof_METHOD_UNSPECIFIED {
			return ""
		}
		return e.GetProof().GetMethod().String()
	}},
	{"proofTime", func(e *InventoryEntry) string { return rfc3339(e.GetProof().GetProveTime()) }},
	{"proofDueTime", func(e *InventoryEntry) string { return rfc3339(e.GetProof().GetDueTime()) }},
	{"lastUseTime", func(e *InventoryEntry) string { return rfc3339(e.GetLastUseTime()) }},
}

// InventoryCSV is the inventory as CSV (RFC 4180) with a header, its columns in JSON's names; lists are joined by spaces, times are in RFC 3339.
// A text that a spreadsheet would take for a formula begins with an apostrophe.
func InventoryCSV(entries []*InventoryEntry) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true
	line := make([]string, len(inventoryColumns))
	for i, c := range inventoryColumns {
		line[i] = c.name
	}
	err := w.Write(line)
	for _, e := range entries {
		for i, c := range inventoryColumns {
			line[i] = cell(c.text(e))
		}
		if err == nil {
			err = w.Write(line)
		}
	}
	w.Flush()
	if err == nil {
		err = w.Error()
	}
	return b.Bytes(), err
}

// cell keeps a text from being a formula: an owner or a purpose is a partner's, and the file is opened by who trusts it.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

func rfc3339(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339)
}
