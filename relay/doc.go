// Package relay is the vocabulary of Sealpost: events, endpoints, deliveries, attempts,
// verdicts and outcomes as values with their invariants, and the Ledger port behind which the
// queryable view lives. It holds no logic beyond checking its own values, trusts nobody's
// input, and imports nothing of ours but signer.
package relay
