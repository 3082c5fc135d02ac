package tree

import "crypto/sha256"

func sha(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}
