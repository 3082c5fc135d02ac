// Package signer signs webhook deliveries and verifies them, in each of the
// formats ("schemes") that receivers of a CRM's events know how to check.
//
// It promises that what a [Signer] has signed a [Verifier] with the right key
// accepts, and nothing else: a changed body, id, time, chunk header, method or
// URL is refused where the scheme covers it ([Facts] says what it covers), and so
// is a delivery outside the tolerance of five minutes, except under the schemes that
// sign no time (Facts.Replayable). Whatever it cannot read
// without doubt it refuses. Secrets are compared in constant time and never
// appear in an error, in a log line or in any printed form of a [Key].
//
// It trusts the caller for the clock and for the body's bytes being those sent or
// received, and a receiver's operator for the keys given to the verifier; it never
// takes a key from a request. It needs the standard library only, so that a
// receiver can import it alone.
//
// Key, Keyring, Signer and Verifier are immutable or guard their state: all are
// safe for concurrent use.
package signer
