/*
 * chatwebhook.h
 *		The one internal header, a section per file.
 *
 * The first sections belong to files that know nothing of PostgreSQL, so that
 * a plain C test can include them; they use standard C types only.  The rest
 * is for the backend, and is seen by files that include postgres.h first.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CHATWEBHOOK_H
#define CHATWEBHOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct sockaddr;

/*
 * sign.c: signatures.  Pure.
 */

/* "sha256=" and 64 hexadecimal digits */
#define CWH_BODY_SIGNATURE_LEN		71
/* "v1," and 44 characters of base64 */
#define CWH_STANDARD_SIGNATURE_LEN	47
/* "whsec_" and the base64 of 32 random bytes */
#define CWH_SECRET_LEN				50
/* "v1a," and 88 characters of base64 */
#define CWH_ASYMMETRIC_SIGNATURE_LEN	92
/* "whsk_" and the base64 of 64 bytes: the seed and the public key */
#define CWH_ED25519_SECRET_LEN		93
/* "whpk_" and the base64 of 32 bytes */
#define CWH_ED25519_PUBLIC_LEN		49

typedef struct CwhSigner CwhSigner;

extern CwhSigner *cwh_signer_create(const char *secret, size_t len);
extern void cwh_signer_destroy(CwhSigner *signer);
extern const char *cwh_secret_problem(const char *secret, size_t len);
extern bool cwh_secret_generate(char out[CWH_SECRET_LEN + 1]);
extern bool cwh_sign_body(CwhSigner *signer, const void *body, size_t len,
						  char out[CWH_BODY_SIGNATURE_LEN + 1]);
extern bool cwh_sign_standard(CwhSigner *signer, const char *id,
							  int64_t timestamp, const void *body, size_t len,
							  char out[CWH_STANDARD_SIGNATURE_LEN + 1]);
extern bool cwh_verify_body(CwhSigner *signer, const void *body, size_t len,
							const char *signature);
extern bool cwh_verify_standard(CwhSigner *signer, const char *id,
								const char *timestamp, const char *signatures,
								const void *body, size_t len,
								int64_t now, int64_t tolerance);
extern bool cwh_ed25519_generate(char out[CWH_ED25519_SECRET_LEN + 1]);
extern bool cwh_ed25519_public(const char *secret, size_t len,
							   char out[CWH_ED25519_PUBLIC_LEN + 1]);
extern bool cwh_signer_is_asymmetric(const CwhSigner *signer);
extern bool cwh_sign_asymmetric(CwhSigner *signer, const char *id,
								int64_t timestamp, const void *body, size_t len,
								char out[CWH_ASYMMETRIC_SIGNATURE_LEN + 1]);
extern bool cwh_verify_asymmetric(const char *public_key, const char *id,
								  const char *timestamp,
								  const char *signatures,
								  const void *body, size_t len,
								  int64_t now, int64_t tolerance);

/*
 * vault.c: secrets at rest.  Pure.
 */

typedef struct CwhVaultKey
{
	unsigned char key[32];
	unsigned char id[8];		/* names the key and gives nothing of it away */
} CwhVaultKey;

typedef enum CwhVaultResult
{
	CWH_VAULT_OK,
	CWH_VAULT_MALFORMED,		/* not a sealed value at all */
	CWH_VAULT_NO_KEY,			/* sealed under a key that we do not have */
	CWH_VAULT_WRONG				/* changed, or not of this webhook and name */
} CwhVaultResult;

extern int	cwh_vault_parse_keys(const char *input, size_t len,
								 CwhVaultKey *keys, int max,
								 const char **problem);
extern size_t cwh_vault_sealed_len(size_t plain_len, bool encrypted);
extern bool cwh_vault_seal(const CwhVaultKey *key,
						   const unsigned char webhook_id[16],
						   const char *name, const void *plain, size_t len,
						   unsigned char *out);
extern CwhVaultResult cwh_vault_open(const CwhVaultKey *keys, int nkeys,
									 const unsigned char webhook_id[16],
									 const char *name,
									 const void *sealed, size_t len,
									 unsigned char *out, size_t *out_len);
extern const char *cwh_vault_problem(CwhVaultResult result);
extern bool cwh_vault_is_current(const CwhVaultKey *keys, int nkeys,
								 const void *sealed, size_t len);
extern bool cwh_random_bytes(void *out, size_t len);
extern void cwh_cleanse(void *memory, size_t len);

/*
 * retry.c: what an outcome means, and when to try again.  Pure.
 */

typedef enum CwhVerdict
{
	CWH_DELIVERED,				/* 2xx */
	CWH_RETRY,					/* may work later: network errors, 408, 425,
								 * 429, 5xx */
	CWH_DEAD,					/* will not work: every other status */
	CWH_DISABLE					/* 410: the receiver wants no more */
} CwhVerdict;

typedef struct CwhRetryPolicy
{
	int			max_retries;	/* retries after the first attempt */
	int64_t		backoff_ms;		/* wait before the first retry */
	double		multiplier;		/* growth of the wait, before jitter */
	int64_t		max_backoff_ms; /* no wait of our own is longer */
} CwhRetryPolicy;

/* A receiver's Retry-After is obeyed up to this long. */
#define CWH_RETRY_AFTER_CAP_S	3600

extern CwhVerdict cwh_retry_verdict(int status);
extern int64_t cwh_retry_wait(const CwhRetryPolicy *policy,
							  int64_t previous_wait_ms, double random01,
							  int64_t retry_after_s);
extern int64_t cwh_retry_after(const char *value, size_t len, int64_t now);

/*
 * target.c: which URLs and addresses may be sent to.  Pure.
 */

typedef struct CwhNetwork
{
	int			family;			/* AF_INET or AF_INET6 */
	int			bits;			/* length of the prefix */
	unsigned char address[16];	/* network byte order; IPv4 uses the first 4 */
} CwhNetwork;

typedef struct CwhTargetPolicy
{
	bool		allow_http;		/* else https only */
	const CwhNetwork *allowed;	/* let through, whatever they are */
	int			nallowed;
	const CwhNetwork *denied;	/* refused, even if public or allowed */
	int			ndenied;
	const uint16_t *ports;		/* if any: the only ones allowed */
	int			nports;
} CwhTargetPolicy;

#define CWH_MAX_URL_LEN		4096
#define CWH_MAX_HOST_LEN	253

typedef struct CwhTarget
{
	bool		https;
	char		host[CWH_MAX_HOST_LEN + 1]; /* lower case, without brackets */
	bool		literal;		/* host is an IP address */
	uint16_t	port;
} CwhTarget;

extern const char *cwh_target_check_url(const CwhTargetPolicy *policy,
										const char *url, size_t len,
										CwhTarget *target);
extern const char *cwh_target_check_address(const CwhTargetPolicy *policy,
											const struct sockaddr *address);
extern int	cwh_target_parse_networks(const char *list, CwhNetwork *networks,
									  int max, const char **problem);
extern int	cwh_target_parse_ports(const char *list, uint16_t *ports, int max,
								   const char **problem);

/*
 * json.c: strings and numbers as ECMAScript writes them.  Pure.
 */

/* The most that cwh_json_string() writes for len bytes. */
#define CWH_JSON_STRING_MAX(len)	((len) * 6 + 2)
/* The most that cwh_json_number() writes for len bytes. */
#define CWH_JSON_NUMBER_MAX(len)	((len) + 32)

extern size_t cwh_json_string(const char *string, size_t len, char *out);
extern size_t cwh_json_number(const char *decimal, size_t len, char *out);
extern bool cwh_json_array_index(const char *key, size_t len, uint32_t *value);

/*
 * transport.c: sends requests with libcurl.  It knows nothing of SQL, raises no
 * errors, and uses malloc, since libcurl calls it back.
 *
 * The caller fills in the first part of a transfer, starts it, drives the
 * transport whenever its descriptor is readable or its time has come, and
 * reaps transfers as they end.
 */
struct curl_slist;

/*
 * Buffers that grew larger than this, in bytes, are not kept for the next
 * delivery: there are some for each of as many as were ever under way at once.
 */
#define CWH_MAX_KEPT_BUFFER	4096

/* A growing run of bytes that malloc gave. */
typedef struct CwhBytes
{
	char	   *data;
	size_t		len;
	size_t		cap;
} CwhBytes;

typedef struct CwhTransportOptions
{
	CwhTargetPolicy policy;
	size_t		max_response_size;	/* bytes of a body that are kept */
	int			max_connections;	/* open at a time, idle ones included */
	const char *ca_file;		/* null or empty: the system's */
	const char *proxy;			/* null or empty: none */
} CwhTransportOptions;

typedef struct CwhTransfer
{
	/* the request; must stay as it is until the transfer is reaped */
	const char *url;
	const char *method;			/* null: POST */
	struct curl_slist *headers; /* an array that is linked as a list, with
								 * room for the text of some behind it, or
								 * null; freed when the transfer ends */
	int			nheaders;
	int			max_headers;
	char	   *header_text;	/* where the next text goes */
	size_t		header_room;	/* bytes that are left there */
	const char *body;			/* or null */
	size_t		body_len;
	size_t		min_response_size;	/* kept of a body, if the option is less */
	long		timeout_ms;
	const char *client_certificate; /* PEM, or null */
	const char *client_key;		/* PEM, or null */

	/* the outcome */
	int			status;			/* of the reply, 0 if there was none */
	bool		failed;			/* there was no whole reply; see error */
	bool		refused;		/* by the address policy, every address of it */
	bool		starved;		/* for want of descriptors; nobody's fault */
	char		error[256];		/* UTF-8, empty if not failed */
	int			latency_ms;
	int64_t		retry_after_s;	/* -1 if the reply named none */
	CwhBytes	response_headers;	/* lines as they came */
	CwhBytes	response_body;	/* as it came, cut at max_response_size */

	/* private */
	void	   *easy;
	char		detail[256];	/* libcurl's words for a failure */
	struct CwhTransfer *next;
	uint64_t	host_key;
	struct timespec began;
	bool		begun_anew;
	bool		must_wait;		/* for a connection that another makes */
	bool		proxied;
	uint64_t	generation;		/* of the options it was started with */
	bool		connecting;		/* has a socket, but no connection yet */
	int			fds[4];			/* sockets opened for it, the last ones */
	int			nfds;
	int			requests;		/* sent so far, libcurl's own repeats
								 * included; 0 if it does not tell of them */
	int			earlier_requests;	/* of them, before it was begun anew */
	int			max_requests;
	int			repeats;		/* of ours, on other connections */
	enum
	{
		CWH_REPLY_NONE,
		CWH_REPLY_HEADERS,
		CWH_REPLY_BODY
	}			reply;			/* how far the reply has got */
	int			header_count;
	bool		cut;			/* we stopped reading the body */
} CwhTransfer;

extern bool cwh_transport_open(const CwhTransportOptions *options);
extern void cwh_transport_configure(const CwhTransportOptions *options);
extern void cwh_transport_close(void);
extern int	cwh_transport_fd(void);
extern long cwh_transport_timeout_ms(void);
extern bool cwh_transport_start(CwhTransfer *transfer);
extern int	cwh_transport_drive(void);
extern CwhTransfer *cwh_transport_reap(void);
extern void cwh_transport_abort(CwhTransfer *transfer);
extern bool cwh_transfer_reserve(CwhTransfer *transfer, int headers,
								 size_t len);
extern void cwh_transfer_release(CwhTransfer *transfer);
extern void cwh_transfer_free(CwhTransfer *transfer);

/*
 * failure.c: what is said of a transfer that failed
 */
#define CWH_HEADERS_TOO_LARGE	"the reply's headers are too large"

extern void cwh_describe_failure(CwhTransfer *transfer, int code,
								 bool has_ca_file);

#ifdef POSTGRES_H

#include <signal.h>

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "storage/condition_variable.h"
#include "utils/jsonb.h"
#include "utils/palloc.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

/*
 * chatwebhook.c: module entry: settings, hooks, worker registration
 */
typedef enum CwhLogAttempts
{
	CWH_LOG_NONE,
	CWH_LOG_FAILURES,
	CWH_LOG_ALL
} CwhLogAttempts;

typedef enum CwhValidation
{
	CWH_VALIDATION_OFF,
	CWH_VALIDATION_WARNING,
	CWH_VALIDATION_ERROR
} CwhValidation;

extern bool cwh_enabled;
extern char *cwh_databases;
extern int	cwh_workers;
extern int	cwh_max_in_flight;
extern int	cwh_poll_interval;
extern bool cwh_allow_http;
extern int	cwh_max_payload_size;
extern int	cwh_max_response_size;
extern int	cwh_connector_timeout;
extern int	cwh_retention;		/* seconds; -1: infinite */
extern int	cwh_attempt_retention;
extern int	cwh_dead_letter_retention;
extern int	cwh_alert_backlog;	/* seconds */
extern int	cwh_breaker_threshold;
extern char *cwh_ca_file;
extern char *cwh_proxy;
extern int	cwh_log_attempts;
extern int	cwh_validation;
extern char *cwh_user_agent;
extern char *cwh_secret_key_file;

/* The setting, of this size at most, as the address policy wants it. */
#define CWH_MAX_NETWORKS	64
#define CWH_MAX_PORTS		64

extern const CwhTargetPolicy *cwh_target_policy(void);

/*
 * shared.c: what processes tell each other in shared memory: which worker
 * serves which database, what it holds, and what it should look at.
 */
#define CWH_ERROR_LEN	256

/* How a worker's life ended, for the launcher. */
typedef enum CwhExit
{
	CWH_EXIT_CRASHED,			/* it said nothing: start another */
	CWH_EXIT_NO_EXTENSION,		/* nothing to do in that database */
	CWH_EXIT_OTHER_VERSION,		/* nor there, until it is updated */
	CWH_EXIT_STOPPED			/* asked to leave; look again when told */
} CwhExit;

/* "This webhook has deliveries to claim, from this position on." */
typedef struct CwhHint
{
	pg_uuid_t	webhook_id;
	TimestampTz due;
	int64		id;
	int			n;				/* how many of them are new */
} CwhHint;

#define CWH_MAX_HINTS	64

/* The most deliveries in a request: the limit of webhook.batch_size. */
#define CWH_MAX_BATCH	100

/* A worker's figures, as worker_status shows them. */
typedef struct CwhWorkerStats
{
	TimestampTz started_at;
	TimestampTz last_activity_at;
	int			in_flight;
	int64		claimed;
	int64		delivered;
	int64		failed;
	char		last_error[CWH_ERROR_LEN];
} CwhWorkerStats;

extern void cwh_shared_install(void);
extern bool cwh_shared_available(void);

extern void cwh_flush_soon(XLogRecPtr upto);
extern void cwh_launcher_attach(void);
extern void cwh_launcher_flush(void);
extern bool cwh_launcher_take(List **databases);
extern void cwh_launcher_poke(Oid database);

#define CWH_SLOT_NONE	(-1)	/* all slots are taken */
#define CWH_SLOT_BARRED (-2)	/* a session wants the database for itself */

extern int	cwh_slot_reserve(Oid database, int number, bool told,
							 int32 *token);
extern void cwh_slot_free(int slot, CwhExit *how, bool *has_extension);
extern bool cwh_slot_has_extension(int slot);
extern bool cwh_slot_attach(int32 token, Oid *database, int *number);
extern void cwh_slot_announce(void);
extern void cwh_slot_set_exit(CwhExit how);
extern bool cwh_slot_told(void);
extern bool cwh_slot_stop_requested(void);
extern int	cwh_slot_take_hints(CwhHint *hints, bool *sweep,
								XLogRecPtr *committed);
extern void cwh_slot_halt(bool halted);
extern void cwh_slot_update_stats(const CwhWorkerStats *stats);
extern void cwh_stop_workers(Oid database);
extern void cwh_unbar_workers(void);

extern void cwh_hint(const pg_uuid_t *webhook_id, TimestampTz due, int64 id,
					 int n);
extern void cwh_sweep_all(void);

extern int64 cwh_id_at(TimestampTz at);
extern int64 cwh_next_id(TimestampTz now);
extern void cwh_id_seen(int64 id);

extern bool cwh_claim(int64 id, const pg_uuid_t *webhook_id);
extern void cwh_claims_mine(const int64 *ids, int n, bool *mine);
extern void cwh_claim_release(const int64 *ids, int n);
extern void cwh_claim_release_all(void);

extern void cwh_culprit_add(const pg_uuid_t *webhook_id);
extern bool cwh_culprit_take(pg_uuid_t *webhook_id);

extern void cwh_settled_broadcast(void);
extern ConditionVariable *cwh_settled(void);

/*
 * subscription.c: per-backend cache: which webhooks want which event
 */
typedef struct CwhEventType
{
	char		name[256];		/* hash key */
	bool		known;			/* is in event_type */
	bool		checked;		/* what follows has been found out */
	List	   *everywhere;		/* of CwhSubscription: webhooks of every
								 * chatbot that want it */
	bool		wanted;			/* by any webhook, of any chatbot */
	int			nrequired;
	char	  **required;		/* keys that data must have */
} CwhEventType;

typedef struct CwhSubscription
{
	pg_uuid_t	webhook_id;
	const char *chatbot_id;		/* null: every chatbot */
	Datum		filter;			/* jsonpath, or 0 */
	bool		ordered;		/* within a conversation, one after another */
} CwhSubscription;

extern const CwhEventType *cwh_event_type(const char *name);
extern List *cwh_subscriptions(const char *type, const char *chatbot_id);
extern void cwh_config_watch(void);
extern void cwh_config_changed(void);
extern uint64 cwh_config_generation(void);
extern Oid	cwh_relation(const char *name);

/*
 * envelope.c: an event as the bytes to be sent
 */
typedef struct CwhEvent
{
	pg_uuid_t	id;
	const char *type;
	const char *chatbot_id;		/* may be null */
	const char *conversation_id;	/* may be null */
	TimestampTz created_at;
	Jsonb	   *data;
} CwhEvent;

extern void cwh_envelope_write(StringInfo out, const CwhEvent *event);
extern Jsonb *cwh_envelope_jsonb(const CwhEvent *event);
extern bool cwh_json_fits(Jsonb *value, size_t limit);
extern void cwh_json_write(StringInfo out, Jsonb *value);
extern void cwh_json_write_string(StringInfo out, const char *string, size_t len);
extern void cwh_uuidv7(pg_uuid_t *uuid, TimestampTz at);
extern void cwh_uuid_text(const pg_uuid_t *uuid, char out[37]);

/*
 * rows.c: rows into the extension's own tables, without SQL
 */

/*
 * The columns of the tables, numbered as in sql/tables.sql.  Tables of a later
 * version may have more, which stay null.
 */
enum
{
	CWH_EVENT_ID, CWH_EVENT_TYPE, CWH_EVENT_CHATBOT_ID,
	CWH_EVENT_CONVERSATION_ID, CWH_EVENT_CREATED_AT, CWH_EVENT_FIRST_DELIVERY,
	CWH_EVENT_LAST_DELIVERY, CWH_EVENT_DATA, CWH_EVENT_COLUMNS
};

enum
{
	CWH_QUEUE_ID, CWH_QUEUE_WEBHOOK_ID, CWH_QUEUE_EVENT_ID,
	CWH_QUEUE_CREATED_AT, CWH_QUEUE_NEXT_ATTEMPT_AT, CWH_QUEUE_LAST_ATTEMPT_AT,
	CWH_QUEUE_ATTEMPTS, CWH_QUEUE_FIRST_ATTEMPT, CWH_QUEUE_LAST_WAIT_MS,
	CWH_QUEUE_LATENCY_MS, CWH_QUEUE_LAST_STATUS_CODE, CWH_QUEUE_CHATBOT_ID,
	CWH_QUEUE_CONVERSATION_ID, CWH_QUEUE_ORDERED, CWH_QUEUE_LAST_ERROR,
	CWH_QUEUE_REPLIES, CWH_QUEUE_COLUMNS
};

/* of history and dead */
enum
{
	CWH_HISTORY_ID, CWH_HISTORY_WEBHOOK_ID, CWH_HISTORY_EVENT_ID,
	CWH_HISTORY_CREATED_AT, CWH_HISTORY_COMPLETED_AT,
	CWH_HISTORY_LAST_ATTEMPT_AT, CWH_HISTORY_ATTEMPTS, CWH_HISTORY_LATENCY_MS,
	CWH_HISTORY_LAST_STATUS_CODE, CWH_HISTORY_CHATBOT_ID,
	CWH_HISTORY_WEBHOOK_NAME, CWH_HISTORY_STATUS, CWH_HISTORY_LAST_ERROR,
	CWH_HISTORY_REPLIES, CWH_HISTORY_COLUMNS
};

/* So many rows are gathered at most before they are stored. */
#define CWH_MAX_ROWS	200

typedef struct CwhRows
{
	Relation	relation;
	EState	   *estate;
	ResultRelInfo *relinfo;
	const Oid  *indexes;		/* in the order of relinfo's */
	IndexInfo **infos;			/* of these, not to be written to */
	TupleTableSlot *slots[CWH_MAX_ROWS];
	int			nslots;			/* made so far */
	int			n;				/* filled */
	struct BulkInsertStateData *bulk;	/* if there are many; else null */
} CwhRows;

extern void cwh_rows_open(CwhRows *rows, EState *estate, const char *name,
						  int columns);
extern TupleTableSlot *cwh_rows_next(CwhRows *rows);
extern HeapTuple cwh_rows_repeat(CwhRows *rows);
extern void cwh_rows_flush(CwhRows *rows);
extern void cwh_rows_close(CwhRows *rows);
extern void cwh_set_column(TupleTableSlot *slot, int column, Datum value);
extern void cwh_set_text(TupleTableSlot *slot, int column, const char *value);

/*
 * outbox.c: claim and settle.  All but the last two are to be called within a
 * transaction, connected to SPI.
 */

/* What a reply means to a connector; see the table connector. */
typedef struct CwhRule
{
	int			nstatuses;
	int		   *statuses;
	int			step;			/* from 1; 0: any */
	char	   *contains;		/* UTF-8, or null */
	CwhVerdict	means;
	int			wait_s;			/* 0: not said */
	char	   *wait_key;		/* or null */
} CwhRule;

/* How requests show who sends them. */
typedef enum CwhAuth
{
	CWH_AUTH_NONE,
	CWH_AUTH_HEADER,			/* a header that is always the same */
	CWH_AUTH_BODY,				/* a member of the body */
	CWH_AUTH_OAUTH2				/* a token that is to be asked for */
} CwhAuth;

/* A webhook as sending needs it. */
typedef struct CwhWebhook
{
	pg_uuid_t	id;
	MemoryContext context;		/* of this struct and all it points to */
	char	   *name;
	char	   *url;			/* placeholders filled in: secret */
	bool		enabled;
	const char *problem;		/* why nothing can be sent for it, or null */
	const char *noted;			/* the problem that its health tells, or null */
	char	  **headers;		/* "Name: value", filled in: secret */
	int			nheaders;
	CwhRetryPolicy retry;
	long		timeout_ms;
	int			max_in_flight;
	double		rate_limit;		/* deliveries a second; 0: no limit */
	int			batch_size;		/* deliveries in a request; 1: no batches */
	int64		batch_window_ms;	/* the first waits so long for others */
	bool		proven;			/* the last attempt at it succeeded */
	TimestampTz updated_at;
	CwhSigner  *signer;			/* null: there is no secret */
	CwhSigner  *previous;		/* null: no secret overlaps */
	TimestampTz previous_until;
	char	   *client_certificate; /* PEM, or null */
	char	   *client_key;		/* PEM, or null: in the certificate */

	CwhAuth		auth;
	char	   *auth_line;		/* a header's line, or a member's text: secret */
	char	   *token_url;
	char	   *token_request;	/* body for the token_url: secret */

	/* for connectors but "webhook" */
	char	   *connector;		/* its name; null: the event itself is sent */
	char	   *function;		/* null: there is no such connector */
	int			nrules;
	CwhRule    *rules;
	char	   *url_template;	/* the url as its owner wrote it */
	Jsonb	   *argument;		/* the webhook as the function gets it */

	/* the worker's */
	int			users;			/* transfers that point into it */
	bool		retired;		/* another has taken its place */
} CwhWebhook;

/* When a commit is to be on disk. */
typedef enum CwhFlush
{
	CWH_FLUSH_NOT,				/* it need not survive a crash: claims alone */
	CWH_FLUSH_SOON,				/* else deliveries are repeated after one */
	CWH_FLUSH_NOW				/* before anything follows from it */
} CwhFlush;

/* A place in a webhook's queue, behind which to look. */
typedef struct CwhPosition
{
	TimestampTz due;
	int64		id;
} CwhPosition;

/* How many deliveries of a webhook to claim, and from where on. */
typedef struct CwhWant
{
	pg_uuid_t	webhook_id;
	CwhPosition after;
	int			n;
} CwhWant;

/* A delivery that is due; what it points to goes with the transaction. */
typedef struct CwhClaimed
{
	bool		mine;			/* else another process has just claimed it */
	int64		id;
	pg_uuid_t	webhook_id;
	TimestampTz due;
	int			attempts;		/* made before */
	int			first_attempt;
	int64		last_wait_ms;
	Jsonb	   *replies;		/* of earlier requests, or null */
	bool		ordered;		/* others of its conversation wait for it */
	bool		has_event;		/* or it is gone */
	CwhEvent	event;
} CwhClaimed;

typedef enum CwhOutcome
{
	CWH_OUTCOME_DELIVERED,
	CWH_OUTCOME_RETRY,
	CWH_OUTCOME_DEAD,
	CWH_OUTCOME_CANCELED,		/* was not tried */
	CWH_OUTCOME_STEP			/* not over: one of its requests has succeeded */
} CwhOutcome;

/* What became of a delivery, to be settled. */
typedef struct CwhResult
{
	int64		id;
	CwhOutcome	outcome;
	const char *webhook_name;
	TimestampTz attempted_at;
	int			latency_ms;
	int			status;			/* 0: no reply */
	const char *error;			/* null: none */
	int64		wait_ms;		/* for a retry */
	Jsonb	   *replies;		/* for a step */
	bool		settled;		/* out: the row has been seen to */
	bool		gone;			/* out: there was no row any more */
} CwhResult;

/* A try, for the table attempt. */
typedef struct CwhAttempt
{
	int64		delivery_id;
	int			attempt;
	pg_uuid_t	webhook_id;
	const char *chatbot_id;
	TimestampTz started_at;
	int			latency_ms;
	int			status;
	const char *error;
	const char *response_headers;	/* JSON */
	const char *response_body;
} CwhAttempt;

#define CWH_RECENT		100

/* Latencies are counted up to each of these, in ms, and beyond the last. */
#define CWH_LATENCY_BOUNDS \
	{5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000}
#define CWH_LATENCIES	12

/* What a webhook's health has gained since it was last written. */
typedef struct CwhHealthGain
{
	pg_uuid_t	webhook_id;
	int64		successes;
	int64		failures;
	bool		succeeded;		/* at all, so that streak starts anew */
	int64		streak;			/* failures since the last success */
	TimestampTz last_success_at;
	TimestampTz last_failure_at;
	TimestampTz failing_since;	/* the first failure of the streak */
	char		last_error[CWH_ERROR_LEN];
	int			nrecent;
	int32		recent[CWH_RECENT]; /* newest first, as in the table */
	int64		latency_sum_ms;
	int64		latency_counts[CWH_LATENCIES];
	int64		given_up;
	bool		written;		/* out */
	bool		alerting;		/* out: alerts may have to be opened or closed */
} CwhHealthGain;

/* What was done, for the table activity. */
typedef struct CwhActivity
{
	int64		succeeded;
	int64		failed;
	int64		given_up;
} CwhActivity;

extern Oid	cwh_outbox_present(char **version);
extern int64 cwh_outbox_last_id(void);
extern bool cwh_outbox_any_webhook(void);
extern void cwh_outbox_load(const pg_uuid_t *ids, int n, MemoryContext parent,
							void (*each) (CwhWebhook *webhook));
extern CwhWebhook *cwh_load_webhook(const pg_uuid_t *id);
extern void cwh_webhook_free(CwhWebhook *webhook);
extern void cwh_outbox_sweep(void (*each) (const pg_uuid_t *webhook_id,
										   TimestampTz first_due));
extern int64 cwh_outbox_catch_up(TimestampTz now, int64 limit);
extern void cwh_outbox_problems(void (*each) (const pg_uuid_t *webhook_id));
extern void cwh_outbox_present_webhooks(const pg_uuid_t *ids, int n,
										void (*each) (const pg_uuid_t *webhook_id));
extern void cwh_outbox_claim(const CwhWant *wants, int n, TimestampTz now,
							 void (*each) (const CwhClaimed *claimed));
extern void cwh_outbox_claim_next(const pg_uuid_t *webhook_ids,
								  char **conversations, int n, TimestampTz now,
								  void (*each) (const CwhClaimed *claimed));
extern void cwh_outbox_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
								void (*each) (const pg_uuid_t *webhook_id,
											  TimestampTz due));
extern void cwh_outbox_settle(CwhResult *results, int n, bool careful);
extern void cwh_outbox_log_attempts(const CwhAttempt *attempts, int n);
extern void cwh_outbox_add_health(CwhHealthGain **gains, int n);
extern void cwh_outbox_add_activity(int worker, TimestampTz now,
									const CwhActivity *activity);
extern void cwh_outbox_check_alerts(const pg_uuid_t *ids, int n);
extern void cwh_outbox_check_backlog(const pg_uuid_t *ids,
									 const TimestampTz *dues, int n);
extern bool cwh_outbox_disable(const pg_uuid_t *webhook_id, const char *reason);
extern bool cwh_outbox_note_problem(const pg_uuid_t *webhook_id,
									const char *problem, bool *changed);
extern void cwh_outbox_begin(void);
extern void cwh_outbox_commit(CwhFlush flush);

/*
 * gate.c: whether a request to a webhook may start now
 */
struct LWLock;

extern Size cwh_gate_size(void);
extern void cwh_gate_startup(struct LWLock *gate_lock);
extern bool cwh_gate_pass(const pg_uuid_t *webhook_id, double rate, int n,
						  int64 probe_ms, TimestampTz now, TimestampTz *again);
extern bool cwh_gate_failed(const pg_uuid_t *webhook_id,
							const CwhRetryPolicy *policy, double random01,
							int64 retry_after_ms, TimestampTz now);
extern bool cwh_gate_succeeded(const pg_uuid_t *webhook_id);
extern void cwh_gate_pause(const pg_uuid_t *webhook_id, TimestampTz until);
extern void cwh_gate_reset(const pg_uuid_t *webhook_id);

/* A clock that has moved so much against the monotonic one was set. */
#define CWH_CLOCK_STEP	USECS_PER_SEC

extern void cwh_gate_set_clock(int64 clock);

/*
 * retention.c: what is finished leaves after a time
 */
extern int	cwh_retention_step(TimestampTz now, bool *pass_done);

/*
 * connector.c: calls connectors, within a transaction, and says what replies
 * mean to them
 */

/* A connector that takes longer than this is called less often. */
#define CWH_SLOW_CONNECTOR_MS	20

/* A token whose life is not told is asked for again after this. */
#define CWH_TOKEN_LIFE_S		3600
#define CWH_MAX_TOKEN_LIFE_S	(30 * 86400)

/* A request as a connector wants it, all but what is secret. */
typedef struct CwhRequest
{
	const char *method;
	bool		own_url;		/* at the webhook's own url */
	char	   *url;			/* what comes behind that, or all of it */
	char	  **headers;		/* "Name: value" */
	int			nheaders;
	StringInfo	body;			/* null: none */
	bool		last;			/* no other follows */

	/* as it is sent: secret, made by cwh_request_prepare_step() */
	char	   *sent_url;
	char	   *sent_body;
} CwhRequest;

typedef struct CwhRender
{
	const CwhWebhook *webhook;
	const char *event;			/* its envelope, in UTF-8 */
	Jsonb	   *replies;		/* null: none yet */
	MemoryContext context;		/* of what comes out */

	/* out */
	CwhRequest *request;		/* null: nothing to send (any more), or error */
	Datum		row;			/* the same, as the function returned it */
	char	   *error;			/* or null */
	int			took_ms;
} CwhRender;

/* Somebody else's code is running, for this webhook; SIGTERM must end it. */
extern volatile sig_atomic_t cwh_connector_running;
extern const CwhWebhook *cwh_connector_of;

extern int	cwh_connector_render(CwhRender *renders, int n);
extern void cwh_connector_parse_rules(Jsonb *rules, CwhWebhook *webhook);
extern CwhVerdict cwh_connector_verdict(const CwhWebhook *webhook, int step,
										const CwhTransfer *transfer,
										int64 *wait_s);
extern Jsonb *cwh_connector_add_reply(Jsonb *replies,
									  const CwhTransfer *transfer);
extern char *cwh_connector_token(const CwhTransfer *transfer, int64 *expires_in,
								 const char **problem);
extern void cwh_append_url_encoded(StringInfo out, const char *value);

/*
 * secrets.c: the key file, and the vault's functions for SQL
 */
extern const char *cwh_vault_keys(const CwhVaultKey **result, int *n);
extern char *cwh_vault_reveal(const pg_uuid_t *webhook_id, const char *name,
							  const bytea *sealed, const char **problem);

/*
 * request.c: an event for a webhook as a request
 */
extern const char *cwh_header_problem(Jsonb *headers);
extern const char *cwh_request_problem(const CwhWebhook *webhook);
extern void cwh_request_prepare(CwhTransfer *transfer,
								const CwhWebhook *webhook,
								const char *event_type,
								const pg_uuid_t *event_id,
								int attempt, int64 delivery_id,
								StringInfo body, TimestampTz now,
								const char *token);
extern void cwh_request_prepare_batch(CwhTransfer *transfer,
									  const CwhWebhook *webhook,
									  const pg_uuid_t *event_ids,
									  const int64 *delivery_ids, int n,
									  int attempt, StringInfo body,
									  TimestampTz now, const char *token);
extern const char *cwh_request_prepare_step(CwhTransfer *transfer,
											const CwhWebhook *webhook,
											CwhRequest *request,
											const char *token);
extern const char *cwh_request_prepare_token(CwhTransfer *transfer,
											 const CwhWebhook *webhook);
extern void cwh_request_cleanse(CwhRequest *request);
extern void cwh_transport_options(CwhTransportOptions *options);
extern char *cwh_reply_text(const CwhBytes *bytes);
extern char *cwh_reply_headers(const CwhBytes *bytes);
extern void cwh_copy_text(char *to, const char *from, size_t size);
extern char *cwh_outcome_error(const CwhTransfer *transfer);

/*
 * launcher.c and worker.c: entry points of the background workers
 */
extern PGDLLEXPORT void cwh_launcher_main(Datum arg);
extern PGDLLEXPORT void cwh_worker_main(Datum arg);
extern void cwh_launcher_register(void);

/* The version of the SQL that this library speaks. */
#define CWH_SQL_VERSION	"1.0"

#endif							/* POSTGRES_H */

#endif							/* CHATWEBHOOK_H */
