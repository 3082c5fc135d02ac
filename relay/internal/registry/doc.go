// Package registry holds the endpoints: their records in a bucket of the journal, with their secrets sealed, and the
// compiled, immutable snapshot of them that everything else reads.
//
// It promises that a write is confirmed only after the journal's sync, that a reader of a snapshot does no I/O and sees
// one consistent revision, that a change of one endpoint compiles that one alone, and that an endpoint whose record,
// keys, policy or filter cannot be read stays visible with the reason and is never sent to. It trusts the
// journal to keep what it confirmed and to report changes in their order, and the holder of the root key; who may
// change what is decided in front of it, by control.
package registry
