package access

import "slices"

// Four eyes are two people, and an account is not a person: who makes a credential for another account holds it, and could act as that
// account too. So each credential carries its hands, the accounts that have held it or what it was made with:
//
//   - what a caller makes goes through the caller's account, and through all the hands of the credential that the caller made it with;
//   - what an account makes for itself (a token rotated, a certificate renewed) keeps the hands of the credential that it calls with, and
//     adds nobody's; so does what it gets at the OAuth endpoint with its certificate;
//   - a person's sign-in has no hands but the person's: the OpenID provider knows them;
//   - the bootstrap token, and the recovery token that can take its place, is no hand: it is there to begin with, on loopback alone, and ends when two operators of all tenants have credentials.
//     Who holds it holds the data folder, keys and all, and could do without any approval. So four eyes begin when it has ended.
//
// What an account wrote carries the author's hands, and an approver is another one only where the two have no hand in common.

// Hands are the accounts whose hands a caller's credential went through, its own account's first.
func (k *Keeper) Hands(c Caller) []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	hands := []string{c.Account}
	if cert := k.certificates.get(c.CredentialID); cert != nil {
		return Joined(hands, cert.Hands...)
	}
	if t := k.tokens.get(c.CredentialID); t != nil {
		return Joined(hands, t.Hands...)
	}
	return hands
}

// HandsFor are those that a credential goes through which a caller makes for an account.
func (k *Keeper) HandsFor(c Caller, tenant, account string) []string {
	if c.CredentialKind == string(KindBootstrap) || c.CredentialKind == string(KindRecovery) {
		return nil
	}
	hands := k.Hands(c)
	if c.Account == account && c.Tenant == tenant {
		return hands[1:]
	}
	return hands
}

// MaxHands bounds the hands of a credential: one that went through more is not made.
const MaxHands = 64

// Apart tells whether two lists of hands have none in common.
func Apart(a, b []string) bool {
	return !slices.ContainsFunc(a, func(one string) bool { return slices.Contains(b, one) })
}

// Joined is the first list with what it lacks of the second, as a new one.
func Joined(first []string, second ...string) []string {
	out := slices.Clone(first)
	for _, one := range second {
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}
