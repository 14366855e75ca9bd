/*
 * sign.h
 *		Signatures of requests, and their keys.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SIGN_H
#define CWH_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "sha256=" and 64 hexadecimal digits */
#define CWH_BODY_SIGNATURE_LEN		71
/* "v1," and 44 characters of base64, a space, "v1a," and 88 */
#define CWH_MESSAGE_SIGNATURE_LEN	140
/* 64 hexadecimal digits, or 44 characters of base64 */
#define CWH_HMAC_LEN				64
/*
 * "whsec_" and the base64 of 32 random bytes; or "whsk_" and that of 64 bytes,
 * an Ed25519 seed and its public key
 */
#define CWH_SECRET_LEN				93
/* "whpk_" and the base64 of 32 bytes */
#define CWH_PUBLIC_KEY_LEN			49

/*
 * Keys, ready for use: a secret (whsec_, or without a prefix), which signs by
 * HMAC-SHA256; a private key (whsk_), which signs by Ed25519; or one of each, and
 * then both sign.  A public key (whpk_) only verifies the private key's
 * signatures.
 *
 * Only a secret makes body signatures (sha256=) and HMACs.  Without one,
 * cwh_sign_body() succeeds with an empty string, and cwh_sign_hmac() fails; with
 * a public key, all signing fails.  cwh_secret_problem() says why a webhook
 * cannot have a secret, which signers may accept: it may be too short to be safe.
 */
typedef struct CwhSigner CwhSigner;

extern CwhSigner *cwh_signer_create(const char *key, size_t len,
									const char **problem);
extern bool cwh_signer_add(CwhSigner *signer, const char *key, size_t len,
						   const char **problem);
extern bool cwh_signer_has_secret(const CwhSigner *signer);
extern void cwh_signer_destroy(CwhSigner *signer);
extern const char *cwh_secret_problem(const char *secret, size_t len);
extern bool cwh_secret_generate(bool asymmetric, char out[CWH_SECRET_LEN + 1]);
extern bool cwh_public_key(const char *secret, size_t len,
						   char out[CWH_PUBLIC_KEY_LEN + 1]);
extern bool cwh_sign_body(CwhSigner *signer, const void *body, size_t len,
						  char out[CWH_BODY_SIGNATURE_LEN + 1]);
extern bool cwh_sign_hmac(CwhSigner *signer, const char *before,
						  const void *body, size_t len, bool base64,
						  char out[CWH_HMAC_LEN + 1]);
extern bool cwh_sign_message(CwhSigner *signer, const char *id,
							 int64_t timestamp, const void *body, size_t len,
							 char out[CWH_MESSAGE_SIGNATURE_LEN + 1]);
extern bool cwh_verify_body(CwhSigner *signer, const void *body, size_t len,
							const char *signature);
extern bool cwh_verify_message(CwhSigner *signer, const char *id,
							   const char *timestamp, const char *signatures,
							   const void *body, size_t len,
							   int64_t now, int64_t tolerance);

#endif							/* CWH_SIGN_H */
