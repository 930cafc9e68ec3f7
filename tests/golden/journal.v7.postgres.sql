-- A database as version 7 of the schema had it (pg_dump --inserts): committed once, never changed.
-- The identity of its server is left out, as for a role that may not read it: it is no sign of a restored copy then.
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;

CREATE SCHEMA backhaul;

CREATE FUNCTION backhaul.append_batch(now_us bigint, regular boolean, wants_all boolean, s_events integer[], s_origin text[], t_journal text[], t_generation text[], t_entity text[], s_append_id text[], s_digest text[], s_session bigint[], s_branch bigint[], s_after bigint[], s_parked_max bigint[], t_position bigint[], t_timestamp bigint[], t_seq bigint[], s_lane bigint[], n_name text[], INOUT n_no bigint[], n_slice integer[], n_sub integer[], n_count integer[], n_prev bigint[], n_last bigint[], n_expect bigint[], n_range integer[], n_type integer[], y_type text[], x_sub integer[], x_ent integer[], r_sub integer[], r_ent integer[], r_from bigint[], r_to bigint[], r_next integer[], r_reason text[], p_event integer[], p_code text[], e_ent integer[], e_seq bigint[], e_prev bigint[], e_time bigint[], e_type text[], e_codec text[], e_tags text[], e_metadata text[], e_end integer[], payloads bytea, o_time bigint, o_type text, o_codec text, o_tags text, o_metadata text, k_position bytea, k_timestamp bytea, k_stored bytea, k_origin_seq bytea, OUT head_position bigint, OUT first_timestamp bigint, OUT is_whole boolean, OUT s_code integer[], OUT s_first bigint[], OUT s_number bigint[], OUT s_entity integer[], OUT s_owner text[], OUT s_seen text[], OUT seen_seq bigint[], OUT n_base bigint[], OUT stored_seq bigint[], OUT e_before text[], OUT parked_event integer[], OUT parked_code text[]) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
    has_backfill CONSTANT boolean := 1 = ANY (s_lane);
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
    kept_from       bigint[];  -- by range: where the part begins that is news, 0 = none is
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

    -- 4. Entities. Those never seen get a row now; 5d takes it away again where nothing was kept.
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
        SELECT u.no, 0, 0, CASE WHEN u.sub = 0 THEN 0 ELSE s_branch[u.sub] END, 0,
               CASE WHEN u.sub = 0 THEN '' ELSE s_origin[u.sub] END, u.name
        FROM (
            SELECT unnest(is_new) AS is_new, unnest(n_no) AS no, unnest(n_sub) AS sub, unnest(n_name) AS name
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
                          AND CASE WHEN h.branch = s_branch[u.sub] OR s_lane[u.sub] = 1 THEN h.origin_seq_nr = u.prev
                              ELSE h.origin_seq_nr >= u.prev END
                      END
                RETURNING u.i, h.seq_nr - u.n - u.prev AS base
            )
            SELECT array_agg(m.base ORDER BY m.i) INTO n_base FROM moved AS m;
            IF coalesce(cardinality(n_base), 0) < n_entities THEN
                RAISE EXCEPTION USING errcode = 'BH001';
            END IF;
        EXCEPTION WHEN SQLSTATE 'BH001' THEN
            is_whole := false;
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
                    IF s_lane[s] = 1 THEN
                        CONTINUE WHEN h_mine[ent] AND seq <= known;
                        CONTINUE WHEN (h_parked[ent] > 0 OR NOT h_mine[ent]) AND seq <= (
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
                        IF h_mine[ent] THEN
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
        FOR k IN 1 .. n_entities LOOP
            IF is_new[k] AND (CASE WHEN is_whole THEN n_count[k] = 0 ELSE NOT h_dirty[k] END) THEN
                DELETE FROM entity AS h WHERE h.entity_no = n_no[k];
                n_no[k] := 0;
            END IF;
        END LOOP;
    END IF;

    -- 6. Origins, locked above, then the head.
    IF has_pushed THEN
        UPDATE origin AS o
        SET journal_id = u.journal, generation_id = u.generation, position = u.position, timestamp_us = u.timestamp,
            persistence_id = u.entity, seq_nr = u.seq, parked = u.parked
        FROM (
            SELECT unnest(s_origin) AS id, unnest(s_code) AS code, unnest(t_journal) AS journal,
                   unnest(t_generation) AS generation, unnest(t_position) AS position,
                   unnest(t_timestamp) AS timestamp, unnest(t_entity) AS entity, unnest(t_seq) AS seq,
                   unnest(s_parked) AS parked, unnest(s_lane) AS lane
        ) AS u
        WHERE o.origin_id = u.id AND u.id <> '' AND u.code = stored AND u.lane = 0;
    END IF;
    IF has_backfill THEN
        UPDATE origin AS o
        SET parked = u.parked
        FROM (
            SELECT unnest(s_origin) AS id, unnest(s_code) AS code, unnest(s_lane) AS lane, unnest(s_parked) AS parked
        ) AS u
        WHERE o.origin_id = u.id AND u.lane = 1 AND u.code = stored AND o.parked <> u.parked;
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

CREATE FUNCTION backhaul.index_tags(first_position bigint, last_position bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO event_tag (tag, position)
    SELECT DISTINCT t.tag, e.position
    FROM event AS e, unnest(string_to_array(e.tags || E'\x1f' || e.prev_tags, E'\x1f')) AS t (tag)
    WHERE e.position BETWEEN first_position AND last_position AND (e.tags <> '' OR e.prev_tags <> '') AND t.tag <> '';
END $$;

CREATE FUNCTION backhaul.int8_at(packed bytea, i integer) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT ('x' || encode(substr(packed, 8 * i - 7, 8), 'hex'))::bit(64)::bigint
$$;

CREATE FUNCTION backhaul.link_tags(e_ent integer[], e_tags text[], o_tags text, stored_seq bigint[], n_tags text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    AS $$
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT array_agg(CASE WHEN f.is_stored THEN tags_before(f.before, f.own) ELSE '' END ORDER BY f.i)
        FROM (
            SELECT e.i, e.own, e.is_stored,
                   CASE WHEN row_number() OVER of_entity = 1 THEN n_tags[e.ent] ELSE lag(e.own) OVER of_entity END
                       AS before
            FROM (
                SELECT u.i, u.ent, coalesce(u.own, o_tags) AS own, coalesce(u.seq, 1) > 0 AS is_stored
                FROM (
                    SELECT generate_series(1, cardinality(e_ent)) AS i, unnest(e_ent) AS ent, unnest(e_tags) AS own,
                           unnest(stored_seq) AS seq
                ) AS u
            ) AS e
            WINDOW of_entity AS (PARTITION BY e.ent, e.is_stored ORDER BY e.i)
        ) AS f
    );
END $$;

CREATE FUNCTION backhaul.seq_above(of_entity bigint, below bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    low    bigint;
    high   bigint;
    middle bigint;
    found  record;
BEGIN
    SELECT seq_nr INTO low FROM event WHERE entity_no = of_entity ORDER BY seq_nr LIMIT 1;
    SELECT seq_nr + 1 INTO high FROM event WHERE entity_no = of_entity ORDER BY seq_nr DESC LIMIT 1;
    IF low IS NULL OR high IS NULL THEN
        RETURN 1;
    END IF;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT seq_nr, position INTO found FROM event
        WHERE entity_no = of_entity AND seq_nr >= middle ORDER BY seq_nr LIMIT 1;
        IF found.position IS NULL OR found.position > below THEN
            high := middle;
        ELSE
            low := found.seq_nr + 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

CREATE FUNCTION backhaul.tags_before(before text, own text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE
        WHEN before IS NULL OR before = own THEN ''
        WHEN string_to_array(before, E'\x1f') @> string_to_array(own, E'\x1f')
            AND string_to_array(before, E'\x1f') <@ string_to_array(own, E'\x1f') THEN ''
        WHEN before = '' THEN E'\x1f'
        ELSE before
    END
$$;

CREATE FUNCTION backhaul.texts(joined text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN joined = '' THEN '{}' ELSE trim_array(string_to_array(joined, E'\x1e'), 1) END
$$;

CREATE TABLE backhaul.append_id (
    append_id text NOT NULL COLLATE pg_catalog."C",
    digest bytea NOT NULL,
    first_position bigint NOT NULL,
    seq_nr bigint[] NOT NULL,
    stored_us bigint NOT NULL
);

CREATE TABLE backhaul.application_schema (
    name text NOT NULL COLLATE pg_catalog."C",
    steps integer NOT NULL
);

CREATE TABLE backhaul.asked_filter (
    version bigint NOT NULL,
    pattern text NOT NULL COLLATE pg_catalog."C",
    criteria text NOT NULL,
    set_us bigint NOT NULL
);

ALTER TABLE backhaul.asked_filter ALTER COLUMN version ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backhaul.asked_filter_version_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backhaul.cursor_in_log (
    name text NOT NULL COLLATE pg_catalog."C",
    journal_id text NOT NULL,
    generation_id text NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    persistence_id text NOT NULL,
    seq_nr bigint NOT NULL
);

CREATE TABLE backhaul.entity (
    entity_no bigint NOT NULL,
    seq_nr bigint NOT NULL,
    origin_seq_nr bigint NOT NULL,
    branch bigint NOT NULL,
    parked bigint NOT NULL,
    owner text NOT NULL COLLATE pg_catalog."C",
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    tags text DEFAULT ''::text NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');

CREATE TABLE backhaul.entity_deleted (
    entity_no bigint NOT NULL,
    deleted_to bigint NOT NULL,
    deleted_position bigint NOT NULL,
    reason text NOT NULL
);

CREATE TABLE backhaul.event (
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    stored_us bigint NOT NULL,
    event_time_us bigint NOT NULL,
    entity_no bigint NOT NULL,
    seq_nr bigint NOT NULL,
    origin_seq_nr bigint NOT NULL,
    slice smallint NOT NULL,
    event_type text NOT NULL,
    codec text NOT NULL,
    tags text NOT NULL,
    metadata text NOT NULL,
    payload bytea NOT NULL,
    prev_tags text DEFAULT ''::text NOT NULL
);

CREATE TABLE backhaul.event_tag (
    tag text NOT NULL COLLATE pg_catalog."C",
    "position" bigint NOT NULL
);

CREATE TABLE backhaul.head (
    one boolean DEFAULT true NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    entities bigint NOT NULL,
    is_tagged boolean DEFAULT false NOT NULL,
    block_type text DEFAULT ''::text NOT NULL,
    CONSTRAINT head_one_check CHECK (one)
)
WITH (fillfactor='10', autovacuum_vacuum_threshold='200', autovacuum_vacuum_scale_factor='0');

CREATE TABLE backhaul.inbox (
    subscription_no bigint NOT NULL,
    id bigint NOT NULL,
    leaving boolean NOT NULL,
    replaces boolean NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    stored_us bigint NOT NULL,
    event_time_us bigint NOT NULL,
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    seq_nr bigint NOT NULL,
    prev_seq_nr bigint NOT NULL,
    origin_seq_nr bigint NOT NULL,
    event_type text NOT NULL,
    codec text NOT NULL,
    payload bytea NOT NULL,
    tags text NOT NULL,
    metadata text NOT NULL
);

CREATE TABLE backhaul.journal (
    one boolean DEFAULT true NOT NULL,
    journal_id text NOT NULL,
    generations text NOT NULL,
    system_identifier bigint NOT NULL,
    timeline bigint NOT NULL,
    database_oid bigint NOT NULL,
    deleted_through bigint DEFAULT 0 NOT NULL,
    CONSTRAINT journal_one_check CHECK (one)
);

CREATE VIEW backhaul.log AS
 SELECT event."position",
    event.timestamp_us,
    event.stored_us,
    event.event_time_us,
    entity.persistence_id,
    event.seq_nr,
    event.origin_seq_nr,
    event.slice,
    event.event_type,
    event.codec,
    event.tags,
    event.metadata,
    event.payload
   FROM (backhaul.event
     JOIN backhaul.entity USING (entity_no));

CREATE TABLE backhaul.origin (
    origin_id text NOT NULL COLLATE pg_catalog."C",
    session bigint NOT NULL,
    instance text NOT NULL,
    branch bigint NOT NULL,
    journal_id text NOT NULL,
    generation_id text NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    persistence_id text NOT NULL,
    seq_nr bigint NOT NULL,
    generations text NOT NULL,
    superseded text NOT NULL,
    last_seen_us bigint NOT NULL,
    fenced_instance text NOT NULL,
    parked bigint DEFAULT 0 NOT NULL,
    left_behind text DEFAULT '[]'::text NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

CREATE TABLE backhaul.parked (
    id bigint NOT NULL,
    origin_id text NOT NULL COLLATE pg_catalog."C",
    branch bigint NOT NULL,
    code text NOT NULL,
    parked_us bigint NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    stored_us bigint NOT NULL,
    event_time_us bigint NOT NULL,
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    seq_nr bigint NOT NULL,
    prev_seq_nr bigint NOT NULL,
    origin_seq_nr bigint NOT NULL,
    event_type text NOT NULL,
    codec text NOT NULL,
    payload bytea NOT NULL,
    tags text NOT NULL,
    metadata text NOT NULL
);

ALTER TABLE backhaul.parked ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backhaul.parked_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backhaul.projection (
    name text NOT NULL COLLATE pg_catalog."C",
    first_slice integer NOT NULL,
    last_slice integer NOT NULL,
    "position" bigint NOT NULL,
    epoch bigint NOT NULL,
    owner text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    paused boolean NOT NULL,
    updated_us bigint NOT NULL,
    ahead text DEFAULT ''::text NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_threshold='200', autovacuum_vacuum_scale_factor='0');

CREATE TABLE backhaul.push_place (
    origin_id text NOT NULL COLLATE pg_catalog."C",
    old_version bigint NOT NULL,
    old_criteria text NOT NULL,
    old_producer text NOT NULL,
    new_version bigint NOT NULL,
    new_criteria text NOT NULL,
    new_producer text NOT NULL,
    change_position bigint NOT NULL,
    backfill_position bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

CREATE TABLE backhaul.schema_version (
    version integer NOT NULL,
    name text NOT NULL
);

CREATE TABLE backhaul.snapshot (
    entity_no bigint NOT NULL,
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    seq_nr bigint NOT NULL,
    "position" bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    stored_us bigint NOT NULL,
    event_time_us bigint NOT NULL,
    event_type text NOT NULL,
    codec text NOT NULL,
    payload bytea NOT NULL,
    tags text NOT NULL,
    metadata text NOT NULL,
    taken_position bigint NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05');

CREATE TABLE backhaul.stated_range (
    id bigint NOT NULL,
    origin_id text NOT NULL COLLATE pg_catalog."C",
    branch bigint NOT NULL,
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    from_seq_nr bigint NOT NULL,
    to_seq_nr bigint NOT NULL,
    reason text NOT NULL,
    received_us bigint NOT NULL
);

ALTER TABLE backhaul.stated_range ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backhaul.stated_range_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backhaul.subscription (
    subscription_no bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    place text NOT NULL,
    desired_version bigint NOT NULL,
    desired_criteria text NOT NULL,
    revision bigint NOT NULL,
    received bigint NOT NULL,
    updated_us bigint NOT NULL,
    inbox_last_id bigint NOT NULL,
    inbox_acked_id bigint NOT NULL,
    inbox_bytes bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_threshold='200', autovacuum_vacuum_scale_factor='0');

CREATE TABLE backhaul.subscription_known (
    subscription_no bigint NOT NULL,
    persistence_id text NOT NULL COLLATE pg_catalog."C",
    known bigint NOT NULL,
    awaiting boolean NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02');

ALTER TABLE backhaul.subscription ALTER COLUMN subscription_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backhaul.subscription_subscription_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE backhaul.tally (
    name text NOT NULL,
    n bigint
);

CREATE TABLE backhaul.type_block (
    entity_type text NOT NULL COLLATE pg_catalog."C",
    block bigint NOT NULL
);

INSERT INTO backhaul.append_id VALUES ('key-1', '\x218dd894eafd20918d661824ae3db6f00dc6407927f60272771d9812ea9a624f', 1, '{1,1,1}', 1700000000000000);

INSERT INTO backhaul.application_schema VALUES ('tally', 1);

INSERT INTO backhaul.asked_filter OVERRIDING SYSTEM VALUE VALUES (1, 'edge-*', '["site"]', 1700000000000000);

INSERT INTO backhaul.cursor_in_log VALUES ('push', 'cloud', 'g', 2, 2, 'Sensor|b', 1);

INSERT INTO backhaul.entity VALUES (1, 1, 0, 0, 0, '', 'Sensor|a', 't:site/1');
INSERT INTO backhaul.entity VALUES (2, 1, 0, 0, 0, '', 'Sensor|b', 't:site/1');
INSERT INTO backhaul.entity VALUES (3, 1, 0, 0, 0, '', 'Door|1', 't:site/1');
INSERT INTO backhaul.entity VALUES (4, 1, 1, 1, 0, 'edge-1', 'Pump|1', '');
INSERT INTO backhaul.entity VALUES (5, 0, 0, 1, 1, 'edge-1', 'Pump|2', '');

INSERT INTO backhaul.event VALUES (1, 1700000000000000, 1700000000000000, 0, 1, 1, 0, 191, 'happened', 'json', 't:site/1', '', '\x7b7d30', '');
INSERT INTO backhaul.event VALUES (2, 1700000000000001, 1700000000000000, 0, 2, 1, 0, 192, 'happened', 'json', 't:site/1', '', '\x7b7d31', '');
INSERT INTO backhaul.event VALUES (3, 1700000000000002, 1700000000000000, 0, 3, 1, 0, 899, 'happened', 'json', 't:site/1', '', '\x7b7d32', '');
INSERT INTO backhaul.event VALUES (4, 1700000000000003, 1700000000000000, 0, 4, 1, 1, 67, 'happened', 'json', '', '', '\x7b7d30', '');

INSERT INTO backhaul.event_tag VALUES ('t:site/1', 2);
INSERT INTO backhaul.event_tag VALUES ('t:site/1', 3);
INSERT INTO backhaul.event_tag VALUES ('t:site/1', 1);

INSERT INTO backhaul.head VALUES (true, 4, 1700000000000003, 5, true, 'Pump');

INSERT INTO backhaul.inbox VALUES (1, 1, false, false, 7, 0, 0, 0, 'Order|1', 1, 0, 0, 'happened', 'json', '\x7b7d30', '', '');
INSERT INTO backhaul.inbox VALUES (1, 2, false, false, 8, 0, 0, 0, 'Order|2', 1, 0, 0, 'happened', 'json', '\x7b7d31', '', '');

INSERT INTO backhaul.journal VALUES (true, 'golden-3', '[["golden-4", 1]]', 0, 0, 0, 0);

INSERT INTO backhaul.origin VALUES ('edge-1', 1, 'process-1', 1, 'journal-1', 'g1', 2, 1700000000000002, 'Pump|2', 4, '[["g1", 1]]', '[]', 1700000000000000, '', 1, '[]');

INSERT INTO backhaul.parked OVERRIDING SYSTEM VALUE VALUES (1, 'edge-1', 1, 'parked.gap', 1700000000000000, 2, 1700000000000002, 1700000000000002, 0, 'Pump|2', 4, 3, 0, 'happened', 'json', '\x7b7d31', '', '');

INSERT INTO backhaul.projection VALUES ('tally', 0, 511, 3, 2, 'node-1', '2121-12-24 00:29:45.572544+00', true, 1700000000000000, '');
INSERT INTO backhaul.projection VALUES ('tally', 512, 1023, 0, 2, 'node-2', '2026-11-29 19:09:46.57372+00', true, 1700000000000000, '');
INSERT INTO backhaul.projection VALUES ('lease:retention', 0, 1023, 0, 2, '', '-infinity', false, 1700000000000000, '');
INSERT INTO backhaul.projection VALUES ('subscription:orders', 0, 1023, 0, 1, 'node-1', '2121-12-24 00:29:45.584491+00', false, 1700000000000000, '');
INSERT INTO backhaul.projection VALUES ('subscription:gone', 0, 1023, 0, 2, 'node-2', '2121-12-24 00:29:45.592509+00', true, 1700000000000000, '');

INSERT INTO backhaul.schema_version VALUES (1, 'journal');
INSERT INTO backhaul.schema_version VALUES (2, 'packed_columns');
INSERT INTO backhaul.schema_version VALUES (3, 'received');
INSERT INTO backhaul.schema_version VALUES (4, 'tags');
INSERT INTO backhaul.schema_version VALUES (5, 'push_filters');
INSERT INTO backhaul.schema_version VALUES (6, 'ahead');
INSERT INTO backhaul.schema_version VALUES (7, 'left_behind');

INSERT INTO backhaul.snapshot VALUES (1, 'Sensor|a', 1, 1, 1700000000000000, 1700000000000000, 0, 'happened', 'json', '\x7b7d', 't:site/1', '', 4);

INSERT INTO backhaul.subscription OVERRIDING SYSTEM VALUE VALUES (1, 'orders', '{"journal_id":"","generation_id":"","live":{"position":8,"digest":"","timestamp_us":0,"scan":null},"applied":{"version":0,"criteria":""},"backfill":null,"next":null,"change_position":0,"reached":0}', 1, '["site"]', 1, 2, 1700000000000000, 2, 0, 246);

INSERT INTO backhaul.subscription_known VALUES (1, 'Order|1', 1, false);

INSERT INTO backhaul.tally VALUES ('x', 3);

INSERT INTO backhaul.type_block VALUES ('Door', 0);
INSERT INTO backhaul.type_block VALUES ('Sensor', 0);
INSERT INTO backhaul.type_block VALUES ('Pump', 0);

SELECT pg_catalog.setval('backhaul.asked_filter_version_seq', 1, true);

SELECT pg_catalog.setval('backhaul.parked_id_seq', 1, true);

SELECT pg_catalog.setval('backhaul.stated_range_id_seq', 1, false);

SELECT pg_catalog.setval('backhaul.subscription_subscription_no_seq', 2, true);

ALTER TABLE ONLY backhaul.append_id
    ADD CONSTRAINT append_id_pkey PRIMARY KEY (append_id);

ALTER TABLE ONLY backhaul.application_schema
    ADD CONSTRAINT application_schema_pkey PRIMARY KEY (name);

ALTER TABLE ONLY backhaul.asked_filter
    ADD CONSTRAINT asked_filter_pattern_key UNIQUE (pattern);

ALTER TABLE ONLY backhaul.asked_filter
    ADD CONSTRAINT asked_filter_pkey PRIMARY KEY (version);

ALTER TABLE ONLY backhaul.cursor_in_log
    ADD CONSTRAINT cursor_in_log_pkey PRIMARY KEY (name);

ALTER TABLE ONLY backhaul.entity_deleted
    ADD CONSTRAINT entity_deleted_pkey PRIMARY KEY (entity_no);

ALTER TABLE ONLY backhaul.entity
    ADD CONSTRAINT entity_persistence_id_key UNIQUE (persistence_id);

ALTER TABLE ONLY backhaul.entity
    ADD CONSTRAINT entity_pkey PRIMARY KEY (entity_no);

ALTER TABLE ONLY backhaul.event
    ADD CONSTRAINT event_entity_no_seq_nr_key UNIQUE (entity_no, seq_nr);

ALTER TABLE ONLY backhaul.event
    ADD CONSTRAINT event_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY backhaul.event_tag
    ADD CONSTRAINT event_tag_pkey PRIMARY KEY (tag, "position");

ALTER TABLE ONLY backhaul.head
    ADD CONSTRAINT head_pkey PRIMARY KEY (one);

ALTER TABLE ONLY backhaul.inbox
    ADD CONSTRAINT inbox_pkey PRIMARY KEY (subscription_no, id);

ALTER TABLE ONLY backhaul.journal
    ADD CONSTRAINT journal_pkey PRIMARY KEY (one);

ALTER TABLE ONLY backhaul.origin
    ADD CONSTRAINT origin_pkey PRIMARY KEY (origin_id);

ALTER TABLE ONLY backhaul.parked
    ADD CONSTRAINT parked_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backhaul.projection
    ADD CONSTRAINT projection_pkey PRIMARY KEY (name, first_slice, last_slice);

ALTER TABLE ONLY backhaul.push_place
    ADD CONSTRAINT push_place_pkey PRIMARY KEY (origin_id);

ALTER TABLE ONLY backhaul.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);

ALTER TABLE ONLY backhaul.snapshot
    ADD CONSTRAINT snapshot_persistence_id_key UNIQUE (persistence_id);

ALTER TABLE ONLY backhaul.snapshot
    ADD CONSTRAINT snapshot_pkey PRIMARY KEY (entity_no);

ALTER TABLE ONLY backhaul.stated_range
    ADD CONSTRAINT stated_range_pkey PRIMARY KEY (id);

ALTER TABLE ONLY backhaul.subscription_known
    ADD CONSTRAINT subscription_known_pkey PRIMARY KEY (subscription_no, persistence_id);

ALTER TABLE ONLY backhaul.subscription
    ADD CONSTRAINT subscription_name_key UNIQUE (name);

ALTER TABLE ONLY backhaul.subscription
    ADD CONSTRAINT subscription_pkey PRIMARY KEY (subscription_no);

ALTER TABLE ONLY backhaul.tally
    ADD CONSTRAINT tally_pkey PRIMARY KEY (name);

ALTER TABLE ONLY backhaul.type_block
    ADD CONSTRAINT type_block_pkey PRIMARY KEY (entity_type, block);

CREATE INDEX append_id_stored ON backhaul.append_id USING btree (stored_us);

CREATE INDEX entity_deleted_position ON backhaul.entity_deleted USING btree (deleted_position);

CREATE INDEX parked_entity ON backhaul.parked USING btree (persistence_id, id);

CREATE INDEX parked_origin ON backhaul.parked USING btree (origin_id, id);

CREATE INDEX stated_range_entity ON backhaul.stated_range USING btree (persistence_id, id);

CREATE INDEX subscription_awaiting ON backhaul.subscription_known USING btree (subscription_no, persistence_id) WHERE awaiting;

