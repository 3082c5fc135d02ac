// Package receivers holds webhook receivers in Go, Node, Python and Java, written to the recipes that partners follow with
// nothing but what each language brings along (Python: and cryptography, for Ed25519 and RSA), and the vendors' own libraries;
// and the tests that hold the signer against them. Tests of the whole product deliver to them as well.
//
// Each receiver is a process that takes its scheme and a folder with its keys from the environment, prints "listening <port>"
// and answers 200 ok, 200 duplicate, 400 stale or 401 invalid. They prove that what we send is what other people's code
// accepts; they trust nothing but the keys they are given.
//
// The tests need go, node with npm, python3 with pip and venv, and a JDK of version 17 or later with Maven. Packages of others
// are installed once, pinned, in the user's cache folder; none of them is part of this repository. Where something is missing
// the tests fail.
package receivers
