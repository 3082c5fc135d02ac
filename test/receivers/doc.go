// Package receivers holds webhook receivers in Node and in Python, written to the
// recipes that partners follow, and the test that holds the signer against them.
//
// Each is a process that takes its scheme and key from the environment, prints
// "listening <port>" and answers 200 ok, 400 stale or 401 invalid. They prove that
// what we send is what other people's code accepts; they trust nothing but the key
// they are given.
//
// The test needs node, and python3 with pip and venv: it makes a virtual environment
// with the pinned packages of python/requirements.txt in the user's cache folder,
// once. Where one of them is missing it fails.
package receivers
