/*
 * failure.c
 *		Describes a failed transfer in words that a user can act on.
 *
 * libcurl's codes are coarse, and its messages differ from version to version.
 * So the words are ours, chosen by the code, by how far the transfer got, and
 * by what OpenSSL or the server has put into libcurl's message.
 *
 * This file knows nothing of PostgreSQL and makes no transfers: the facts are
 * passed in.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <curl/curl.h>
#include <openssl/x509.h>

#include "compat_curl.h"
#include "failure.h"

/* Part of a message; text is null if the message has no such part. */
typedef struct Part
{
	const char *text;
	int			len;
} Part;

/* Where a transfer ran out of time. */
static const char *
timed_out(CwhPhase phase)
{
	switch (phase)
	{
		case CWH_PHASE_LOOKUP:
			return "timed out while looking up the host's name";
		case CWH_PHASE_CONNECT:
			return "timed out while connecting";
		case CWH_PHASE_HANDSHAKE:
			return "timed out in the TLS handshake";
		case CWH_PHASE_SENT:
			return "timed out while waiting for the reply";
		case CWH_PHASE_HEADERS:
			return "timed out while reading the reply's headers";
		case CWH_PHASE_BODY:
			break;
	}
	return "timed out while reading the reply's body";
}

/*
 * What OpenSSL says of a failure, such as "tlsv13 alert certificate required".
 * It ends libcurl's message, behind the last colon, or precedes ", errno".
 */
static Part
tls_reason(const char *detail)
{
	static const char marker[] = "SSL routines:";
	Part		reason = {NULL, 0};
	const char *start = strstr(detail, marker);
	const char *end;

	if (start == NULL)
		return reason;
	/* before OpenSSL 3.0 a function's name stands between the two colons */
	start = strchr(start + strlen(marker), ':');
	if (start == NULL || *++start == '\0')
		return reason;
	end = strstr(start, ", errno");
	reason.text = start;
	reason.len = (int) (end ? (size_t) (end - start) : strlen(start));
	return reason;
}

/*
 * The name of the error with which a server ended an HTTP/2 stream, such as
 * "INTERNAL_ERROR".  libcurl's words are "was not closed cleanly: NAME (err
 * NUMBER)", or in later versions "reset by server (error NUMBER NAME)".
 */
static Part
stream_error(const char *detail)
{
	static const char earlier[] = "closed cleanly: ";
	static const char later[] = "(error ";
	Part		error = {NULL, 0};
	const char *name = strstr(detail, earlier);

	if (name != NULL)
		name += strlen(earlier);
	else
	{
		name = strstr(detail, later);
		name = name ? strchr(name + strlen(later), ' ') : NULL;
		if (name == NULL)
			return error;
		name++;
	}
	error.text = name;
	error.len = (int) strcspn(name, " )");
	return error;
}

/* "WHAT: PART", or WHAT alone if there is no such part. */
static void
describe(char *out, size_t size, const char *what, Part part)
{
	if (part.text)
		snprintf(out, size, "%s: %.*s", what, part.len, part.text);
	else
		snprintf(out, size, "%s", what);
}

/* The operating system's reason, if it is known. */
static Part
os_reason(long os_errno)
{
	Part		reason = {NULL, 0};

	if (os_errno != 0)
	{
		reason.text = strerror((int) os_errno);
		reason.len = (int) strlen(reason.text);
	}
	return reason;
}

/* Why the server's certificate was not accepted. */
static void
describe_verification(const CwhFailure *failure, char *out, size_t size)
{
	long		result = failure->verify_result;

	/* libcurl compares the host's name itself, once the chain is verified */
	if (result == X509_V_OK || result == X509_V_ERR_UNSPECIFIED)
		snprintf(out, size, "the server's certificate is for another host");
	else
		snprintf(out, size, "could not verify the server's certificate: %s",
				 X509_verify_cert_error_string(result));
}

/* libcurl's own words for a code, to complete a sentence. */
static void
describe_code(CURLcode code, char *out, size_t size)
{
	snprintf(out, size, "%s", curl_easy_strerror(code));
	out[0] = (char) tolower((unsigned char) out[0]);
}

/* Describe a failed transfer.  The text is at most size - 1 bytes long. */
void
cwh_describe_failure(const CwhFailure *failure, char *out, size_t size)
{
	static const Part none = {NULL, 0};
	int			code = failure->code;
	const char *what = NULL;
	Part		part = none;

	/* newer versions report a key that is not the certificate's like this */
	if (code == CURLE_BAD_FUNCTION_ARGUMENT && failure->has_client_certificate)
		code = CURLE_SSL_CERTPROBLEM;
	/* libcurl accepts longer lines than we do, but not lines without end */
	if (failure->phase == CWH_PHASE_HEADERS && cwh_curl_is_too_large(code))
	{
		describe(out, size, CWH_HEADERS_TOO_LARGE, none);
		return;
	}

	switch ((CURLcode) code)
	{
		case CURLE_OPERATION_TIMEDOUT:
			what = timed_out(failure->phase);
			break;
		case CURLE_COULDNT_RESOLVE_HOST:
			what = "could not look up the host's name";
			break;
		case CURLE_COULDNT_RESOLVE_PROXY:
			what = "could not look up the proxy's name";
			break;
		case CURLE_COULDNT_CONNECT:
			what = "could not connect";
			part = os_reason(failure->os_errno);
			break;
		case CURLE_PEER_FAILED_VERIFICATION:
			describe_verification(failure, out, size);
			return;
		case CURLE_SSL_CONNECT_ERROR:
			what = "the TLS handshake failed";
			part = tls_reason(failure->detail);
			break;
		case CURLE_SSL_CERTPROBLEM:
			what = "the webhook's client certificate or key is unusable";
			break;
		case CURLE_SSL_CACERT_BADFILE:
			what = failure->has_ca_file ? "could not read chatwebhook.ca_file" :
				"the system has no certificate authorities: install them, or set chatwebhook.ca_file";
			break;
		case CURLE_GOT_NOTHING:
			what = "the connection was closed without a reply";
			break;
		case CURLE_PARTIAL_FILE:
			what = failure->phase < CWH_PHASE_HEADERS ?
				"the connection was closed without a reply" :
				"the connection was closed within the reply";
			break;
		case CURLE_RECV_ERROR:
		case CURLE_SEND_ERROR:
			/* with TLS 1.3 a server refuses clients after the handshake */
			part = tls_reason(failure->detail);
			what = part.text ? "the server ended the TLS connection" :
				code == CURLE_SEND_ERROR ?
				"the connection was lost while sending" :
				"the connection was lost while reading the reply";
			break;
		case CURLE_HTTP2_STREAM:
			what = "the server ended the HTTP/2 stream";
			part = stream_error(failure->detail);
			break;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_WEIRD_SERVER_REPLY:
			what = "the reply is not HTTP";
			break;
		default:
			describe_code((CURLcode) code, out, size);
			return;
	}
	describe(out, size, what, part);
}
