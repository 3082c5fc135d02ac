package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/signer"
)

// maxSecretBytes bounds a file with a signing secret or a public key.
const maxSecretBytes = 64 << 10

// keyFlags name what deliveries are verified with.
type keyFlags struct {
	files  []string
	scheme string
	url    string
}

func (k *keyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&k.files, "secret-file", nil, "file with the endpoint's secret, or its public key; twice during a rotation")
	addScheme(cmd, &k.scheme, string(signer.Schemes()[0]))
}

// addScheme adds --scheme, with the schemes that there are in its help and its completion.
func addScheme(cmd *cobra.Command, to *string, value string) {
	var names []string
	for _, s := range signer.Schemes() {
		names = append(names, string(s))
	}
	usage := "signature format: " + strings.Join(names, ", ")
	if value == "" {
		usage += fmt.Sprintf(" (default %s)", names[0])
	}
	cmd.Flags().StringVar(to, "scheme", value, usage)
	if err := cmd.RegisterFlagCompletionFunc("scheme", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
}

// signingURL names the schemes that sign the URL.
func signingURL() string {
	var names []string
	for _, s := range signer.Schemes() {
		if s.Facts().CoversTarget {
			names = append(names, string(s))
		}
	}
	return strings.Join(names, " and ")
}

// verifier trusts the keys of the files.
func (k *keyFlags) verifier(options ...signer.VerifierOption) (*signer.Verifier, error) {
	if len(k.files) == 0 {
		return nil, usagef("--secret-file is needed: the file with the secret that 'sealpost endpoint create' showed")
	}
	scheme, err := signer.ParseScheme(k.scheme)
	if err != nil {
		return nil, usagef("--scheme: %q is not one of %v", k.scheme, signer.Schemes())
	}
	var keys []signer.VerifyingKey
	for _, name := range k.files {
		text, err := readBounded(name, maxSecretBytes)
		if err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		key, err := parseKey(scheme, strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		keys = append(keys, key)
	}
	return signer.NewVerifier(scheme, keys, options...)
}

// parseKey reads a public key where the text is one, else a secret.
func parseKey(scheme signer.Scheme, text string) (signer.VerifyingKey, error) {
	if scheme.Facts().Asymmetric {
		if public, err := signer.ParsePublicKey(scheme, text); err == nil {
			return public, nil
		}
	}
	return signer.ParseKey(scheme, text)
}
