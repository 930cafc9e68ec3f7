-- Dropped first: its arguments change with the schema, and for a program from before that change it is gone, rather than
-- called with what it no longer means.
DROP FUNCTION IF EXISTS append_batch;

-- Judge and store one group of sub-batches: one call, one transaction, one round trip.
--
-- The rules are those of common/core/journal/admission.py; the contract suite holds both to one behaviour. Each statement in here
-- sees what was committed before it began, so after the head is locked nothing can be stale (READ COMMITTED; one big
-- statement would judge with what it saw before it waited).
--
-- Arrays by their first letter, indexes from 1:
--   s_  sub-batches in order; s_events[s] of the events belong to it; s_origin '' = a local append.
--       s_lane: which of the origin's cursors it moves, 0 = live, 1 = backfill, 2 = none (the past of entities that
--       enter); in 1 and 2 what is known is passed over.
--   n_  the distinct entities of the group; n_sub is the pushed sub-batch that alone touches it, or 0.
--       n_no: its entity_no if the caller has it from an earlier answer, else 0; comes back filled in.
--       n_prev and n_last: prev_seq_nr of its first and seq_nr of its last pushed event; local: 0.
--       n_expect: the number a local append expects it to have, -1 = any.
--       n_type: the place of its type in y_type, the types of the group's events; empty when they have but one.
--   x_  who expects something, in order: the sub-batch and the entity.
--   r_  stated ranges; n_range[n] is the first one of an entity, r_next[r] the one after it, 0 = none.
--   p_  poisoned events, ordered by event.
--   e_  events; e_ent their entity; e_seq the origin's number, or for local ones 1, 2, 3 … within the entity.
--       e_prev is empty when regular (then it is e_seq - 1). Any other empty column: every event has the value o_….
--       Payload i ends at byte e_end[i] of payloads. Columns that only parked rows need are packed, 8 bytes big
--       endian an event: k_….
-- regular: no poison, pushed events follow each other within each entity, and what ranges there are lead to them: live, one
-- an entity, which ends where its events begin; of an entity without events n_prev and n_last are where it ends. Then one
-- look at the entity heads decides for all, and the rows go in as they came; anything else takes the loop, event by event.
-- wants_all: the caller hands what was stored on to others, so it needs every number back.
CREATE FUNCTION append_batch(
    now_us bigint, regular boolean, wants_all boolean,
    s_events int[], s_origin text[], t_journal text[], t_generation text[], t_entity text[],
    s_append_id text[], s_digest text[],
    s_session bigint[], s_branch bigint[], s_after bigint[], s_parked_max bigint[],
    t_position bigint[], t_timestamp bigint[], t_seq bigint[], s_lane bigint[],
    n_name text[], INOUT n_no bigint[], n_slice int[], n_sub int[], n_count int[], n_prev bigint[], n_last bigint[],
    n_expect bigint[], n_range int[], n_type int[], y_type text[],
    x_sub int[], x_ent int[],
    r_sub int[], r_ent int[], r_from bigint[], r_to bigint[], r_next int[], r_reason text[],
    p_event int[], p_code text[],
    e_ent int[], e_seq bigint[], e_prev bigint[], e_time bigint[],
    e_type text[], e_codec text[], e_tags text[], e_metadata text[], e_end int[], payloads bytea,
    o_time bigint, o_type text, o_codec text, o_tags text, o_metadata text,
    k_position bytea, k_timestamp bytea, k_stored bytea, k_origin_seq bytea,
    OUT head_position bigint,  -- after the group
    OUT first_timestamp bigint,  -- of the first event stored; the others follow one by one
    OUT is_whole boolean,      -- everything was stored as it came
    -- what became of each sub-batch: see the CASEs of postgres/appends/batch.py
    OUT s_code int[], OUT s_first bigint[], OUT s_number bigint[], OUT s_entity int[], OUT s_owner text[],
    OUT s_seen text[],         -- digests of append ids that were used before
    OUT seen_seq bigint[],     -- the numbers stored with them, one after the other
    OUT n_base bigint[],       -- all stored: number = n_base[e_ent] + e_seq
    OUT stored_seq bigint[],   -- else: number of each event, 0 = not stored
    OUT e_before text[],       -- prev_tags of each event; empty when none has any
    OUT parked_event int[], OUT parked_code text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    n_events   CONSTANT int := cardinality(e_ent);
    n_subs     CONSTANT int := cardinality(s_events);
    n_entities CONSTANT int := cardinality(n_name);
    -- s_code
    stored      CONSTANT int := 0;
    wrong_seq   CONSTANT int := 1;
    foreign_own CONSTANT int := 2;
    seen        CONSTANT int := 3;
    fenced      CONSTANT int := 4;
    out_of_step CONSTANT int := 5;
    blocked     CONSTANT int := 6;
    before_position  bigint;
    before_timestamp bigint;
    entity_count     bigint;
    has_local  boolean := false;
    asks_no    CONSTANT boolean := 0 = ANY (n_no);
    has_pushed boolean := false;
    has_repeats  CONSTANT boolean := 0 < ANY (s_lane);
    has_ids    boolean := false;
    has_new    boolean := false;
    s_parked   bigint[] := array_fill(0::bigint, ARRAY[n_subs]);
    is_new     boolean[];  -- by entity
    -- entity heads
    h_mine   boolean[];   -- this sub-batch's side owns it
    h_seq    bigint[];
    h_oseq   bigint[];
    h_branch bigint[];
    h_parked bigint[];
    h_owner  text[];
    h_dirty  boolean[];
    stored_position bigint[];
    block_type text;           -- head.block_type, before and after
    has_tags   boolean;        -- an event of the log or of this group has tags
    n_tags     text[];         -- by entity: tags of its last event before this group, NULL when it has none
    event_code      text[];
    kept_from       bigint[];  -- by range (regular: by entity): where the part begins that is news, 0 = none is
    n         bigint := 0;
    row       record;
    first     int;
    last      int := 0;
    x         int := 1;
    p         int := 1;
    ent       int;
    r         int;
    seq       bigint;
    prev      bigint;
    is_next   boolean;
    gone_from bigint;          -- from here on all known numbers were stated as gone
    back_ent  int[] := '{}';   -- entities of which an event came that had been stated as gone, and its number
    back_seq  bigint[] := '{}';
    known     bigint;
    code      text;
    n_before  bigint;
    n_parked  bigint;
BEGIN
    is_whole := regular;
    s_code := array_fill(stored, ARRAY[n_subs]);
    s_first := array_fill(0::bigint, ARRAY[n_subs]);
    s_number := s_first;
    s_entity := array_fill(0, ARRAY[n_subs]);
    s_owner := array_fill(''::text, ARRAY[n_subs]);
    s_seen := array_fill(''::text, ARRAY[n_subs]);
    seen_seq := '{}';
    n_base := '{}';
    stored_seq := '{}';
    e_before := '{}';
    parked_event := '{}';
    parked_code := '{}';

    -- 1. Origins: compare and, much later, set. Whoever is fenced or out of step learns it before anything waits.
    FOR s IN 1 .. n_subs LOOP
        IF s_origin[s] <> '' THEN
            has_pushed := true;
            s_code[s] := fenced;  -- unless a row says otherwise: no Hello, no session
        ELSE
            has_local := true;
            has_ids := has_ids OR s_append_id[s] <> '';
        END IF;
    END LOOP;
    IF has_pushed THEN
        FOR row IN
            SELECT o.origin_id, o.session, o.position, o.parked FROM origin AS o
            WHERE o.origin_id = ANY (s_origin) ORDER BY o.origin_id FOR UPDATE
        LOOP
            first := array_position(s_origin, row.origin_id);
            s_parked[first] := row.parked;
            known := row.position;
            IF s_lane[first] = 1 THEN  -- whoever holds the origin's row holds its place
                known := coalesce(
                    (SELECT l.backfill_position FROM push_place AS l WHERE l.origin_id = row.origin_id), 0);
            ELSIF s_lane[first] = 2 THEN
                known := s_after[first];
            END IF;
            IF row.session <> s_session[first] THEN
                s_number[first] := row.session;
            ELSIF known <> s_after[first] THEN
                s_code[first] := out_of_step;
                s_number[first] := known;
            ELSE
                s_code[first] := stored;
            END IF;
        END LOOP;
    END IF;

    -- 2. The head: from here to the commit we are the only writer of the log.
    SELECT h.position, h.timestamp_us, h.entities, h.is_tagged, h.block_type
    INTO before_position, before_timestamp, entity_count, has_tags, block_type
    FROM head AS h FOR UPDATE;
    has_tags := has_tags OR o_tags <> '' OR cardinality(e_tags) > 0;
    before_timestamp := greatest(now_us - 1, before_timestamp);
    first_timestamp := before_timestamp + 1;

    -- 3. Append ids: seen before?
    IF has_ids THEN
        FOR row IN
            SELECT u.s, a.digest, a.first_position, a.seq_nr
            FROM (SELECT unnest(s_append_id) AS id, generate_series(1, n_subs) AS s) AS u
            JOIN append_id AS a ON a.append_id = u.id
            WHERE u.id <> '' ORDER BY u.s
        LOOP
            s_code[row.s] := seen;
            s_seen[row.s] := encode(row.digest, 'hex');
            s_first[row.s] := row.first_position;
            s_number[row.s] := cardinality(row.seq_nr);
            seen_seq := seen_seq || row.seq_nr;
        END LOOP;
    END IF;
    is_whole := is_whole AND stored = ALL (s_code);

    -- 4. Entities. Those never seen get a row now, with all that a range alone says of them; 5d takes it away again where nothing
    -- was kept.
    IF asks_no THEN
        is_new := array_fill(false, ARRAY[n_entities]);
        FOR row IN
            SELECT u.i, h.entity_no AS no
            FROM (SELECT generate_series(1, n_entities) AS i, unnest(n_no) AS no, unnest(n_name) AS name) AS u
            LEFT JOIN entity AS h ON h.persistence_id = u.name
            WHERE u.no = 0
        LOOP
            IF row.no IS NULL THEN
                entity_count := entity_count + 1;
                n_no[row.i] := entity_count;
                is_new[row.i] := true;
                has_new := true;
            ELSE
                n_no[row.i] := row.no;
            END IF;
        END LOOP;
    END IF;
    IF has_new THEN
        INSERT INTO entity (entity_no, seq_nr, origin_seq_nr, branch, parked, owner, persistence_id)
        SELECT u.no, 0, CASE WHEN is_whole AND u.n = 0 AND r_from[u.range] = 1 THEN u.last ELSE 0 END,
               CASE WHEN u.sub = 0 THEN 0 ELSE s_branch[u.sub] END, 0,
               CASE WHEN u.sub = 0 THEN '' ELSE s_origin[u.sub] END, u.name
        FROM (
            SELECT unnest(is_new) AS is_new, unnest(n_no) AS no, unnest(n_sub) AS sub, unnest(n_name) AS name,
                   unnest(n_count) AS n, unnest(n_last) AS last, unnest(n_range) AS range
        ) AS u
        WHERE u.is_new;
    END IF;

    IF has_tags THEN
        SELECT array_agg(u.tags ORDER BY u.i) INTO n_tags
        FROM (
            SELECT v.i, CASE WHEN h.seq_nr > 0 THEN h.tags END AS tags
            FROM (SELECT generate_series(1, n_entities) AS i, unnest(n_no) AS no) AS v
            JOIN entity AS h ON h.entity_no = v.no
        ) AS u;
    END IF;

    -- The heads move if they are where a regular group needs them, all or none of them.
    IF is_whole THEN
        BEGIN
            IF cardinality(r_ent) = 0 THEN
                WITH moved AS (
                    UPDATE entity AS h
                    SET seq_nr = h.seq_nr + u.n,
                        origin_seq_nr = CASE WHEN u.sub = 0 THEN h.origin_seq_nr ELSE u.last END,
                        branch = CASE WHEN u.sub = 0 THEN h.branch ELSE s_branch[u.sub] END
                    FROM (
                        SELECT generate_series(1, n_entities) AS i, unnest(n_no) AS no, unnest(n_sub) AS sub,
                               unnest(n_count) AS n, unnest(n_prev) AS prev, unnest(n_last) AS last,
                               unnest(n_expect) AS expect
                    ) AS u
                    WHERE h.entity_no = u.no
                      AND CASE WHEN u.sub = 0 THEN (u.n = 0 OR h.owner = '') AND coalesce(u.expect, -1) IN (-1, h.seq_nr)
                          ELSE h.owner = s_origin[u.sub] AND h.parked = 0
                              AND CASE WHEN h.branch = s_branch[u.sub] OR s_lane[u.sub] > 0 THEN h.origin_seq_nr = u.prev
                                  ELSE h.origin_seq_nr >= u.prev END
                          END
                    RETURNING u.i, h.seq_nr - u.n - u.prev AS base
                )
                SELECT array_agg(m.base ORDER BY m.i) INTO n_base FROM moved AS m;
            ELSIF has_new AND n_events = 0 AND n_entities = cardinality(r_ent) AND true = ALL (is_new) AND 1 = ALL (r_from)
            THEN
                -- nothing but a range from 1 of each of some new entities: their rows were made as the ranges leave them
                n_base := array_fill(0::bigint, ARRAY[n_entities]);
                kept_from := array_fill(1::bigint, ARRAY[n_entities]);
            ELSE
                -- the same, with the numbers that a range leads over; nobody else writes these rows now
                WITH asked AS (
                    SELECT u.*, b.origin_seq_nr AS known, coalesce(r_from[u.range], 0) AS gone_from,
                           coalesce(is_new[u.i] AND u.n = 0 AND r_from[u.range] = 1, false) AS is_there
                    FROM (
                        SELECT generate_series(1, n_entities) AS i, unnest(n_no) AS no, unnest(n_sub) AS sub,
                               unnest(n_count) AS n, unnest(n_prev) AS prev, unnest(n_last) AS last,
                               unnest(n_expect) AS expect, unnest(n_range) AS range
                    ) AS u
                    JOIN entity AS b ON b.entity_no = u.no
                ), moved AS (
                    UPDATE entity AS h
                    SET seq_nr = h.seq_nr + u.n,
                        origin_seq_nr = CASE WHEN u.sub = 0 THEN h.origin_seq_nr
                            WHEN u.n = 0 THEN greatest(u.last, h.origin_seq_nr) ELSE u.last END,
                        branch = CASE WHEN u.sub = 0 THEN h.branch ELSE s_branch[u.sub] END
                    FROM asked AS u
                    WHERE h.entity_no = u.no AND NOT u.is_there
                      AND CASE WHEN u.sub = 0 THEN (u.n = 0 OR h.owner = '') AND coalesce(u.expect, -1) IN (-1, h.seq_nr)
                          ELSE h.owner = s_origin[u.sub] AND h.parked = 0
                              AND CASE WHEN u.gone_from > 0 THEN h.branch = s_branch[u.sub]
                                      AND (u.n = 0 OR h.origin_seq_nr <= u.prev) AND h.origin_seq_nr >= u.gone_from - 1
                                  WHEN h.branch = s_branch[u.sub] OR s_lane[u.sub] > 0 THEN h.origin_seq_nr = u.prev
                                  ELSE h.origin_seq_nr >= u.prev END
                          END
                    RETURNING u.i, h.seq_nr - u.n - u.prev AS base,
                              CASE WHEN u.gone_from > 0 AND u.known < u.prev THEN u.known + 1 ELSE 0 END AS kept_from
                )
                SELECT array_agg(m.base ORDER BY m.i), array_agg(m.kept_from ORDER BY m.i) INTO n_base, kept_from
                FROM (SELECT * FROM moved UNION ALL SELECT i, 0, 1 FROM asked WHERE is_there) AS m;
            END IF;
            IF coalesce(cardinality(n_base), 0) < n_entities THEN
                RAISE EXCEPTION USING errcode = 'BH001';
            END IF;
        EXCEPTION WHEN SQLSTATE 'BH001' THEN
            is_whole := false;
            IF has_new AND cardinality(r_ent) > 0 THEN
                UPDATE entity AS h SET origin_seq_nr = 0
                FROM (SELECT unnest(is_new) AS is_new, unnest(n_no) AS no) AS u
                WHERE h.entity_no = u.no AND u.is_new;
            END IF;
        END;
    END IF;

    IF is_whole THEN
        -- 5a. All of it, as it came.
        n := n_events;
        IF has_tags THEN
            e_before := link_tags(e_ent, e_tags, o_tags, stored_seq, n_tags);
        END IF;
        INSERT INTO event (position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, slice,
                           event_type, codec, tags, metadata, payload, prev_tags)
        SELECT before_position + e.i, before_timestamp + e.i, now_us, coalesce(e.time, o_time), n_no[e.ent],
               n_base[e.ent] + e.seq, CASE WHEN n_sub[e.ent] = 0 THEN 0 ELSE e.seq END, n_slice[e.ent],
               coalesce(e.type, o_type), coalesce(e.codec, o_codec), coalesce(e.tags, o_tags),
               coalesce(e.metadata, o_metadata),
               substr(payloads, coalesce(e_end[e.i - 1], 0) + 1, e.until - coalesce(e_end[e.i - 1], 0)),
               coalesce(e.before, '')
        FROM (
            SELECT generate_series(1, n_events) AS i, unnest(e_ent) AS ent, unnest(e_seq) AS seq,
                   unnest(e_time) AS time, unnest(e_type) AS type, unnest(e_codec) AS codec, unnest(e_tags) AS tags,
                   unnest(e_metadata) AS metadata, unnest(e_end) AS until, unnest(e_before) AS before
        ) AS e;
        IF cardinality(r_ent) > 0 THEN
            INSERT INTO stated_range (origin_id, branch, persistence_id, from_seq_nr, to_seq_nr, reason, received_us)
            SELECT s_origin[r.sub], s_branch[r.sub], n_name[r.ent], kept_from[r.ent], r.until, r.reason, now_us
            FROM (
                SELECT generate_series(1, cardinality(r_ent)) AS i, unnest(r_sub) AS sub, unnest(r_ent) AS ent,
                       unnest(r_to) AS until, unnest(r_reason) AS reason
            ) AS r
            WHERE kept_from[r.ent] > 0 ORDER BY r.i;
        END IF;
        FOR s IN 1 .. n_subs LOOP
            s_first[s] := before_position + 1 + last;
            last := last + s_events[s];
            s_number[s] := s_events[s];
            IF s_append_id[s] <> '' THEN
                INSERT INTO append_id (append_id, digest, first_position, seq_nr, stored_us)
                SELECT s_append_id[s], decode(s_digest[s], 'hex'), s_first[s],
                       coalesce(array_agg(n_base[e_ent[i]] + e_seq[i] ORDER BY i), '{}'), now_us
                FROM generate_series(last - s_events[s] + 1, last) AS i;
            END IF;
        END LOOP;
    ELSE
        -- 5b. Event by event, as common/core/journal/admission.py does it.
        n_base := '{}';
        SELECT array_agg(u.owner = CASE WHEN u.sub = 0 THEN '' ELSE s_origin[u.sub] END ORDER BY u.i),
               array_agg(u.seq_nr ORDER BY u.i), array_agg(u.origin_seq_nr ORDER BY u.i),
               array_agg(u.branch ORDER BY u.i), array_agg(u.parked ORDER BY u.i), array_agg(u.owner ORDER BY u.i)
        INTO h_mine, h_seq, h_oseq, h_branch, h_parked, h_owner
        FROM (
            SELECT v.i, v.sub, h.seq_nr, h.origin_seq_nr, h.branch, h.parked, h.owner
            FROM (SELECT generate_series(1, n_entities) AS i, unnest(n_no) AS no, unnest(n_sub) AS sub) AS v
            JOIN entity AS h ON h.entity_no = v.no
        ) AS u;
        h_dirty := array_fill(false, ARRAY[n_entities]);
        stored_seq := array_fill(0::bigint, ARRAY[n_events]);
        stored_position := stored_seq;
        event_code := array_fill(''::text, ARRAY[n_events]);
        kept_from := array_fill(0::bigint, ARRAY[cardinality(r_ent)]);
        FOR s IN 1 .. n_subs LOOP
            first := last + 1;
            last := last + s_events[s];
            CONTINUE WHEN s_code[s] <> stored;
            s_first[s] := before_position + n + 1;
            IF s_origin[s] = '' THEN
                WHILE x <= cardinality(x_ent) AND x_sub[x] <= s LOOP
                    IF x_sub[x] = s AND s_code[s] = stored AND h_seq[x_ent[x]] <> n_expect[x_ent[x]] THEN
                        s_code[s] := wrong_seq;
                        s_entity[s] := x_ent[x];
                        s_first[s] := n_expect[x_ent[x]];
                        s_number[s] := h_seq[x_ent[x]];
                    END IF;
                    x := x + 1;
                END LOOP;
                FOR i IN first .. last LOOP
                    EXIT WHEN s_code[s] <> stored;
                    IF NOT h_mine[e_ent[i]] THEN
                        s_code[s] := foreign_own;
                        s_entity[s] := e_ent[i];
                        s_owner[s] := h_owner[e_ent[i]];
                    END IF;
                END LOOP;
                CONTINUE WHEN s_code[s] <> stored;
                FOR i IN first .. last LOOP
                    ent := e_ent[i];
                    seq := h_seq[ent] + 1;
                    h_seq[ent] := seq;
                    h_dirty[ent] := true;
                    n := n + 1;
                    stored_seq[i] := seq;
                    stored_position[i] := before_position + n;
                END LOOP;
                s_number[s] := s_events[s];
                IF s_append_id[s] <> '' THEN
                    INSERT INTO append_id (append_id, digest, first_position, seq_nr, stored_us)
                    VALUES (s_append_id[s], decode(s_digest[s], 'hex'), s_first[s], stored_seq[first : last], now_us);
                END IF;
            ELSE
                n_before := n;
                n_parked := 0;
                -- after the events one more turn for each range: what no event of its entity came after
                FOR i IN first .. last + cardinality(r_ent) LOOP
                    IF i <= last THEN
                        ent := e_ent[i];
                        seq := e_seq[i];
                    ELSE
                        CONTINUE WHEN r_sub[i - last] <> s;
                        ent := r_ent[i - last];
                        seq := 9223372036854775807;
                    END IF;
                    -- an entity's ranges that begin at or below its event come before it
                    WHILE n_range[ent] > 0 AND r_from[n_range[ent]] <= seq LOOP
                        r := n_range[ent];
                        n_range[ent] := r_next[r];
                        CONTINUE WHEN NOT h_mine[ent];
                        h_dirty[ent] := true;
                        IF h_parked[ent] > 0 THEN
                            kept_from[r] := r_from[r];
                            CONTINUE;
                        END IF;
                        known := h_oseq[ent];
                        -- what is backfilled lies where the branches are one still: there is nothing to go back to
                        IF h_branch[ent] <> s_branch[s] AND s_lane[s] = 0 THEN
                            known := least(r_from[r] - 1, known);
                        END IF;
                        IF r_from[r] - 1 <= known AND r_to[r] > known THEN
                            kept_from[r] := known + 1;
                            h_oseq[ent] := r_to[r];
                            IF s_lane[s] = 0 THEN
                                h_branch[ent] := s_branch[s];
                            END IF;
                        END IF;
                    END LOOP;
                    CONTINUE WHEN i > last;

                    WHILE p_event[p] < i LOOP  -- not beyond the last: that is NULL
                        p := p + 1;
                    END LOOP;
                    prev := CASE WHEN regular THEN seq - 1 ELSE e_prev[i] END;
                    is_next := prev < seq AND seq - 1 = prev;  -- in this order no number of a peer overflows
                    known := h_oseq[ent];
                    -- what was stated as gone, with all known behind it, and comes nevertheless, is not gone
                    IF seq <= known AND is_next AND h_mine[ent] AND h_parked[ent] = 0 AND h_branch[ent] = s_branch[s]
                        AND NOT ent = ANY (back_ent)
                    THEN
                        gone_from := known;
                        FOR row IN
                            SELECT q.from_seq_nr, q.to_seq_nr FROM stated_range AS q
                            WHERE q.persistence_id = n_name[ent] AND q.origin_id = s_origin[s]
                              AND q.branch = s_branch[s] AND q.reason IN ('trimmed', 'dropped', 'snapshot')
                            ORDER BY q.to_seq_nr DESC
                        LOOP
                            IF row.to_seq_nr >= gone_from THEN
                                gone_from := least(gone_from, row.from_seq_nr - 1);
                            END IF;
                        END LOOP;
                        IF gone_from < seq THEN
                            back_ent := back_ent || ent;
                            back_seq := back_seq || seq;
                            h_oseq[ent] := prev;
                            known := prev;
                        END IF;
                    END IF;
                    IF s_lane[s] > 0 THEN
                        CONTINUE WHEN h_mine[ent] AND seq <= known;
                        CONTINUE WHEN (h_parked[ent] > 0 OR NOT h_mine[ent] OR p_event[p] = i) AND seq <= (
                            SELECT max(q.seq_nr) FROM parked AS q
                            WHERE q.persistence_id = n_name[ent] AND q.origin_id = s_origin[s]
                        );
                    END IF;
                    code := CASE
                        WHEN p_event[p] = i THEN p_code[p]
                        WHEN NOT h_mine[ent] THEN 'parked.foreign_owner'
                        WHEN h_parked[ent] > 0 THEN 'parked.behind'
                        WHEN h_branch[ent] <> s_branch[s] THEN
                            CASE WHEN prev <= known AND is_next THEN '' ELSE 'parked.gap' END
                        WHEN seq <= known THEN 'parked.conflict'
                        WHEN prev = known AND is_next THEN ''
                        ELSE 'parked.gap'
                    END;
                    IF code = '' THEN
                        h_seq[ent] := h_seq[ent] + 1;
                        h_oseq[ent] := seq;
                        h_branch[ent] := s_branch[s];
                        h_dirty[ent] := true;
                        n := n + 1;
                        stored_seq[i] := h_seq[ent];
                        stored_position[i] := before_position + n;
                    ELSE
                        event_code[i] := code;
                        n_parked := n_parked + 1;
                        -- what its origin may not write leaves the entity as it is, and makes none
                        IF h_mine[ent] AND code <> 'parked.not_allowed' THEN
                            h_parked[ent] := h_parked[ent] + 1;
                            h_dirty[ent] := true;
                        END IF;
                    END IF;
                END LOOP;
                s_number[s] := n - n_before;
                IF n_parked > 0 AND s_parked[s] + n_parked > s_parked_max[s] THEN
                    -- over the quota: as if it had never come
                    s_code[s] := blocked;
                    s_number[s] := s_parked[s];
                    n := n_before;
                    FOR i IN first .. last LOOP
                        stored_seq[i] := 0;
                        event_code[i] := '';
                    END LOOP;
                    FOR k IN 1 .. cardinality(n_sub) LOOP
                        IF n_sub[k] = s THEN
                            h_dirty[k] := false;
                        END IF;
                    END LOOP;
                ELSE
                    s_parked[s] := s_parked[s] + n_parked;
                END IF;
            END IF;
        END LOOP;
        IF has_tags THEN
            e_before := link_tags(e_ent, e_tags, o_tags, stored_seq, n_tags);
        END IF;
        INSERT INTO event (position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, slice,
                           event_type, codec, tags, metadata, payload, prev_tags)
        SELECT e.position, before_timestamp + e.position - before_position, now_us, coalesce(e.time, o_time),
               n_no[e.ent], e.stored, CASE WHEN n_sub[e.ent] = 0 THEN 0 ELSE e.seq END, n_slice[e.ent],
               coalesce(e.type, o_type), coalesce(e.codec, o_codec), coalesce(e.tags, o_tags),
               coalesce(e.metadata, o_metadata),
               substr(payloads, coalesce(e_end[e.i - 1], 0) + 1, e.until - coalesce(e_end[e.i - 1], 0)),
               coalesce(e.before, '')
        FROM (
            SELECT generate_series(1, n_events) AS i, unnest(stored_seq) AS stored,
                   unnest(stored_position) AS position, unnest(e_ent) AS ent, unnest(e_seq) AS seq,
                   unnest(e_time) AS time, unnest(e_type) AS type, unnest(e_codec) AS codec, unnest(e_tags) AS tags,
                   unnest(e_metadata) AS metadata, unnest(e_end) AS until, unnest(e_before) AS before
        ) AS e
        WHERE e.stored > 0;
        WITH set_aside AS (
            INSERT INTO parked (origin_id, branch, code, parked_us, position, timestamp_us, stored_us, event_time_us,
                                persistence_id, seq_nr, prev_seq_nr, origin_seq_nr,
                                event_type, codec, tags, metadata, payload)
            SELECT s_origin[n_sub[e.ent]], s_branch[n_sub[e.ent]], e.code, now_us, int8_at(k_position, e.i),
                   int8_at(k_timestamp, e.i), int8_at(k_stored, e.i), coalesce(e.time, o_time),
                   n_name[e.ent], e.seq,
                   CASE WHEN regular THEN e.seq - 1 ELSE e_prev[e.i] END, int8_at(k_origin_seq, e.i),
                   coalesce(e.type, o_type), coalesce(e.codec, o_codec), coalesce(e.tags, o_tags),
                   coalesce(e.metadata, o_metadata),
                   substr(payloads, coalesce(e_end[e.i - 1], 0) + 1, e.until - coalesce(e_end[e.i - 1], 0))
            FROM (
                SELECT generate_series(1, n_events) AS i, unnest(event_code) AS code, unnest(e_ent) AS ent,
                       unnest(e_seq) AS seq, unnest(e_time) AS time, unnest(e_type) AS type,
                       unnest(e_codec) AS codec, unnest(e_tags) AS tags, unnest(e_metadata) AS metadata,
                       unnest(e_end) AS until
            ) AS e
            WHERE e.code <> '' ORDER BY e.i
        )
        SELECT array_agg(e.i ORDER BY e.i), array_agg(e.code ORDER BY e.i) INTO parked_event, parked_code
        FROM (SELECT generate_series(1, n_events) AS i, unnest(event_code) AS code) AS e WHERE e.code <> '';
        parked_event := coalesce(parked_event, '{}');
        parked_code := coalesce(parked_code, '{}');
        IF cardinality(back_ent) > 0 THEN
            UPDATE stated_range AS q
            SET to_seq_nr = u.seq - 1
            FROM (SELECT unnest(back_ent) AS ent, unnest(back_seq) AS seq) AS u
            WHERE q.persistence_id = n_name[u.ent] AND q.origin_id = s_origin[n_sub[u.ent]]
              AND q.branch = s_branch[n_sub[u.ent]] AND q.reason IN ('trimmed', 'dropped', 'snapshot')
              AND q.to_seq_nr >= u.seq AND s_code[n_sub[u.ent]] = stored;
            DELETE FROM stated_range AS q
            USING (SELECT unnest(back_ent) AS ent) AS u
            WHERE q.persistence_id = n_name[u.ent] AND q.to_seq_nr < q.from_seq_nr;
        END IF;
        INSERT INTO stated_range (origin_id, branch, persistence_id, from_seq_nr, to_seq_nr, reason, received_us)
        SELECT s_origin[r_sub[e.i]], s_branch[r_sub[e.i]], n_name[r_ent[e.i]], kept_from[e.i], r_to[e.i],
               r_reason[e.i], now_us
        FROM generate_series(1, cardinality(r_ent)) AS e (i)
        WHERE kept_from[e.i] > 0 AND s_code[r_sub[e.i]] = stored ORDER BY e.i;
        UPDATE entity AS h
        SET seq_nr = u.seq, origin_seq_nr = u.oseq, branch = u.branch, parked = u.parked
        FROM (
            SELECT unnest(n_no) AS no, unnest(h_dirty) AS dirty, unnest(h_seq) AS seq, unnest(h_oseq) AS oseq,
                   unnest(h_branch) AS branch, unnest(h_parked) AS parked
        ) AS u
        WHERE h.entity_no = u.no AND u.dirty;
    END IF;

    -- 5c. What makes the events findable, and the tags their entities go on from.
    IF n > 0 THEN
        IF cardinality(y_type) = 1 THEN
            IF block_type <> y_type[1] OR before_position >> 6 <> (before_position + n) >> 6 THEN
                INSERT INTO type_block (entity_type, block)
                SELECT y_type[1], b.block
                FROM generate_series((before_position + 1) >> 6, (before_position + n) >> 6) AS b (block)
                ON CONFLICT DO NOTHING;
                block_type := y_type[1];
            END IF;
        ELSE
            block_type := '';
            INSERT INTO type_block (entity_type, block)
            SELECT DISTINCT y_type[n_type[e.ent]],
                   CASE WHEN is_whole THEN before_position + e.i ELSE e.position END >> 6
            FROM (
                SELECT generate_series(1, n_events) AS i, unnest(e_ent) AS ent, unnest(stored_seq) AS stored,
                       unnest(stored_position) AS position
            ) AS e
            WHERE is_whole OR e.stored > 0
            ON CONFLICT DO NOTHING;
        END IF;
        IF has_tags THEN
            PERFORM index_tags(before_position + 1, before_position + n);
            UPDATE entity AS h SET tags = u.tags
            FROM (
                SELECT DISTINCT ON (e.ent) e.ent, coalesce(e.own, o_tags) AS tags
                FROM (
                    SELECT generate_series(1, n_events) AS i, unnest(e_ent) AS ent, unnest(stored_seq) AS stored,
                           unnest(e_tags) AS own
                ) AS e
                WHERE is_whole OR e.stored > 0 ORDER BY e.ent, e.i DESC
            ) AS u
            WHERE h.entity_no = n_no[u.ent] AND u.tags <> coalesce(n_tags[u.ent], '');
        END IF;
    END IF;

    -- 5d. Entities that were only asked about, or only refused.
    IF has_new THEN
        FOR ent IN
            SELECT u.i
            FROM (
                SELECT generate_series(1, n_entities) AS i, unnest(is_new) AS is_new, unnest(n_count) AS n,
                       unnest(n_range) AS range, unnest(h_dirty) AS dirty
            ) AS u
            WHERE u.is_new
              AND CASE WHEN is_whole THEN u.n = 0 AND coalesce(u.range, 0) = 0 ELSE NOT u.dirty END
        LOOP
            DELETE FROM entity AS h WHERE h.entity_no = n_no[ent];
            n_no[ent] := 0;
        END LOOP;
    END IF;

    -- 6. Origins, locked above, then the head.
    IF has_pushed THEN
        UPDATE origin AS o
        SET journal_id = u.journal, generation_id = u.generation, position = u.position, timestamp_us = u.timestamp,
            persistence_id = u.entity, seq_nr = u.seq, parked = u.parked, last_seen_us = now_us
        FROM (
            SELECT unnest(s_origin) AS id, unnest(s_code) AS code, unnest(t_journal) AS journal,
                   unnest(t_generation) AS generation, unnest(t_position) AS position,
                   unnest(t_timestamp) AS timestamp, unnest(t_entity) AS entity, unnest(t_seq) AS seq,
                   unnest(s_parked) AS parked, unnest(s_lane) AS lane
        ) AS u
        WHERE o.origin_id = u.id AND u.id <> '' AND u.code = stored AND u.lane = 0 AND u.position > o.position;
    END IF;
    IF has_repeats THEN
        UPDATE origin AS o
        SET parked = u.parked, last_seen_us = now_us
        FROM (
            SELECT unnest(s_origin) AS id, unnest(s_code) AS code, unnest(s_lane) AS lane, unnest(s_parked) AS parked
        ) AS u
        WHERE o.origin_id = u.id AND u.lane > 0 AND u.code = stored;
        UPDATE push_place AS l
        SET backfill_position = u.position
        FROM (
            SELECT unnest(s_origin) AS id, unnest(s_code) AS code, unnest(s_lane) AS lane,
                   unnest(t_position) AS position
        ) AS u
        WHERE l.origin_id = u.id AND u.lane = 1 AND u.code = stored;
    END IF;
    IF n > 0 OR has_new THEN
        UPDATE head AS h
        SET position = before_position + n, entities = entity_count,
            is_tagged = has_tags AND (h.is_tagged OR n > 0), block_type = block_type,
            timestamp_us = CASE WHEN n > 0 THEN before_timestamp + n ELSE h.timestamp_us END;
    END IF;
    head_position := before_position + n;
    IF NOT wants_all OR '' = ALL (e_before) THEN
        e_before := '{}';
    END IF;
    -- Arrays cost the caller most: only those it needs.
    IF NOT asks_no THEN
        n_no := '{}';
    END IF;
    IF NOT (has_local OR wants_all) THEN
        n_base := '{}';
        stored_seq := '{}';
    END IF;
END $$;
