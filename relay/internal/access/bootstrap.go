package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/keys"
)

// OperatorFile is the name of the bootstrap token's file in the data folder.
const OperatorFile = "operator.token"

// OperatorAccount is the account of the bootstrap token. No account can be made of its name.
const OperatorAccount = "operator"

// recoveryLife is how long a recovery token is good.
const recoveryLife = time.Hour

var recoveryScopes = []Scope{AccountsRead, AccountsWrite, AccountsDisable, TokensRead, TokensWrite, TokensRevoke}

// loopback is the address as which the file is looked at.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// bootstrapped tells whether two operators of all tenants have had credentials: the bootstrap token has ended then, for good. The caller holds mu.
func (k *Keeper) bootstrapped() bool {
	n := 0
	for _, r := range k.accounts.rows {
		if a := r.value; a.Role == Operator && a.Tenant == "" && !a.enrolTime.IsZero() {
			n++
		}
	}
	return n >= 2
}

// headless tells whether no operator of all tenants has a credential that is good now.
func (k *Keeper) headless() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	leads := func(tenant, name string) bool {
		a := k.accounts.get(accountKey(tenant, name))
		return a != nil && a.Role == Operator && a.Tenant == ""
	}
	for _, r := range k.tokens.rows {
		if _, err := k.tokenHolds(r.value); err == nil && (leads(r.value.Tenant, r.value.Account) || r.value.Kind == KindBootstrap) {
			return false
		}
	}
	for _, r := range k.certificates.rows {
		if _, err := k.certificateHolds(r.value); err == nil && leads(r.value.Tenant, r.value.Account) {
			return false
		}
	}
	return true
}

// Bootstrap makes the operator's token and its file at path, one line of mode 0600, if there is no file; made tells. A
// file that is there must hold a token that is known: it is not made anew behind an operator's back. The
// token is for all tenants, on loopback alone, and does not expire: it ends when two operator accounts of all tenants have credentials.
// From then on no file is made, but where none of those credentials is good any more: then a token is, for an hour, with which to
// make new ones.
func (k *Keeper) Bootstrap(ctx context.Context, path string) (made bool, err error) {
	err = k.checkFile(path)
	if errors.Is(err, ErrBootstrapped) {
		return false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	k.mu.RLock()
	ended := k.bootstrapped()
	k.mu.RUnlock()
	grant, life := Grant{Account: OperatorAccount, Role: Operator, Creator: OperatorAccount, Kind: KindBootstrap}, time.Duration(0)
	if ended {
		if !k.headless() {
			return false, nil
		}
		grant.Kind, life = KindRecovery, recoveryLife
	}
	t, secret := newToken(grant, k.now().UTC())
	if life > 0 {
		t.ExpireTime = t.CreateTime.Add(life)
	}
	// The bucket first: killed in between, a token is left that nobody knows; the other way round, a file that does not work.
	if err := create(ctx, k, &k.tokens, t); err != nil {
		return false, err
	}
	if err := keys.WriteNew(path, []byte(secret.Reveal()+"\n")); err != nil {
		return false, fmt.Errorf("access: operator token: %w", err)
	}
	return true, nil
}

func (k *Keeper) checkFile(path string) error {
	text, err := keys.ReadPrivate(path, 2*tokenLength)
	if err != nil {
		return fmt.Errorf("access: operator token: %w", err)
	}
	_, err = k.authenticate(&Presented{Token: strings.TrimSuffix(string(text), "\n"), Address: loopback})
	if err != nil {
		return fmt.Errorf("access: operator token in %s: %w; remove the file to have a new one made", path, err)
	}
	return nil
}
