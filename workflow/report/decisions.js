// Decisions of reviewers: kept in this browser, exported to a table that the workflow reads, imported from one.
// What stands in the table already came with the page; only what is not in it yet is kept here.
{
  const data = JSON.parse(document.querySelector('#decisions-data')?.textContent ?? 'null');

  const columns = ['section', 'region', 'y0_px', 'x0_px', 'y1_px', 'x1_px', 'area_px', 'decision', 'comment', 'who', 'when', 'seen'];
  const boxColumns = columns.slice(2, 7);
  const words = { accept: 'Accepted', leave: 'To be left as scanned', redraw: 'To be drawn again' };

  // --- what is kept: by region, its last row that is not in the table, and the rows before it ------------------------

  const store = `cytomend:${data?.section}:${data?.source}`;
  const nameStore = 'cytomend:reviewer';
  const unkept = new Map(); // what the browser does not keep, until the page is closed
  let keeps = true;

  function recall(key) {
    if (unkept.has(key)) return unkept.get(key);
    try {
      return window.localStorage.getItem(key);
    } catch {
      keeps = false;
      return null;
    }
  }

  function keep(key, text) {
    try {
      if (text === null) window.localStorage.removeItem(key);
      else window.localStorage.setItem(key, text);
      unkept.delete(key);
      keeps = unkept.size === 0;
    } catch {
      unkept.set(key, text);
      keeps = false;
    }
    showKeeping();
  }

  function showKeeping() {
    document.querySelector('#review-keeping').hidden = keeps;
  }

  const unsaid = { decision: '', who: '', when: '', text: 'Not decided yet.' };
  const regions = new Map(data?.regions.map((region) => [region.region, { ...unsaid, ...region }]));
  const regionAt = new Map(data?.regions.map((region) => [region.at.join(' '), region.region]));
  const placeOf = (row) => boxColumns.map((column) => Number(row[column])).join(' ');
  const same = (a, b) => a.decision === b.decision && a.comment === b.comment && a.who === b.who && Date.parse(a.when) === Date.parse(b.when);
  const tabled = (row, at) => data.rows.some((other) => placeOf(other) === at && same(other, row));
  const byTime = (a, b) => Date.parse(a.when) - Date.parse(b.when);

  // Rows by place, so that a region of another mask that now has this number is not decided upon.
  function readKept() {
    const kept = new Map();
    let entries = {};
    try {
      entries = Object.entries(JSON.parse(recall(store) ?? '{}'));
    } catch {
      entries = [];
    }
    for (const [, entry] of entries) {
      if (typeof entry?.at !== 'string') continue;
      const rows = [...(Array.isArray(entry.earlier) ? entry.earlier.filter(Boolean) : []), entry].map(plain).filter((row) => !tabled(row, entry.at));
      if (rows.length) kept.set(entry.at, { region: Number(entry.region) || 0, rows });
    }
    return kept;
  }

  function plain({ decision, comment, who, when, seen }) {
    return { decision: String(decision ?? ''), comment: String(comment ?? ''), who: String(who ?? ''), when: String(when ?? ''), seen: String(seen ?? '') };
  }

  function writeKept(kept) {
    const entries = {};
    for (const [at, { region, rows }] of kept) {
      const ordered = rows.toSorted(byTime);
      const last = ordered.findLast((row) => row.decision) ?? ordered.at(-1);
      const number = regionAt.get(at);
      entries[number ?? `gone ${at}`] = { ...last, at, region: number ?? region, earlier: ordered.filter((row) => row !== last) };
    }
    keep(store, kept.size ? JSON.stringify(entries) : null);
  }

  // What holds of a region: the last decision, of the table or of those that are kept here.
  function stateOf(number, kept = readKept()) {
    const region = regions.get(number);
    const rows = (kept.get(region.at.join(' '))?.rows ?? []).toSorted(byTime);
    const last = rows.findLast((row) => row.decision);
    const stale = Boolean(last) && last.decision !== 'leave' && last.seen !== '' && last.seen !== region.seen;
    const counts = Boolean(last) && !stale && !(region.when && Date.parse(region.when) > Date.parse(last.when));
    return { region, rows, last, stale, unsaved: counts, decision: counts ? last.decision : region.decision };
  }

  // --- changes -------------------------------------------------------------------------------------------------------

  const now = () => new Date().toISOString().replace(/\.\d+Z$/, 'Z');

  // Whether a row is about what is seen now, so that a comment may be added to it.
  const isAbout = (row, { seen }) => !row.decision || row.decision === 'leave' || row.seen === '' || row.seen === seen;

  // A reviewer's new row takes the place of her last one that is not in the table yet, if that is about the same filling.
  // A comment alone is no new decision: it changes neither time nor filling of one.
  async function change(number, part) {
    const who = await reviewer();
    if (!who) {
      show();
      const comment = controls.find((control) => numberOf(control) === number)?.querySelector('textarea');
      if (comment && 'comment' in part) comment.value = part.comment; // nothing that was typed is lost
      return;
    }
    const region = regions.get(number);
    const at = region.at.join(' ');
    const kept = readKept(); // again, since another tab may have written
    const { rows } = kept.get(at) ?? { rows: [] };
    const last = rows.findLast((row) => row.who === who);
    const mine = last && isAbout(last, region) ? last : undefined;
    const fresh = { decision: '', comment: mine?.comment ?? '', who, when: now(), seen: region.seen };
    const row = 'decision' in part || !mine ? { ...fresh, ...part } : { ...mine, ...part };
    const others = rows.filter((other) => other !== mine);
    if (row.decision || row.comment) others.push(row);
    if (others.length) kept.set(at, { region: number, rows: others });
    else kept.delete(at);
    writeKept(kept);
    say('');
    show();
  }

  // Hers; where she has none, what she imported of others.
  function takeBack(number) {
    const who = recall(nameStore);
    const kept = readKept();
    const at = regions.get(number).at.join(' ');
    const { rows } = kept.get(at) ?? { rows: [] };
    const others = rows.filter((row) => row.who !== who);
    if (others.length && others.length < rows.length) kept.set(at, { region: number, rows: others });
    else kept.delete(at);
    writeKept(kept);
    show();
  }

  // --- the reviewer's name, asked once -------------------------------------------------------------------------------

  const dialog = document.querySelector('#review-name');
  const nameField = document.querySelector('#review-name-field');
  let asking = null;

  const reviewer = () => Promise.resolve(recall(nameStore)).then((name) => name || askName());

  function askName() {
    asking ??= new Promise((answer) => {
      nameField.value = recall(nameStore) ?? '';
      dialog.returnValue = '';
      dialog.addEventListener('close', () => {
        const name = dialog.returnValue === 'keep' ? nameField.value.trim() : '';
        if (name) keep(nameStore, name);
        asking = null;
        show();
        answer(name);
      }, { once: true });
      dialog.showModal();
    });
    return asking;
  }

  // --- what is shown -------------------------------------------------------------------------------------------------

  const verdicts = { accept: 'accept', leave: 'leave as scanned', redraw: 'draw again', '': 'remark' };

  // The controls of a region, from the page's template.
  function controlOf({ region: number, at }) {
    const article = document.querySelector('#decision').content.firstElementChild.cloneNode(true);
    article.dataset.of = number;
    article.classList.toggle('current', Boolean(document.querySelector(`#region-${number}.current`)));
    const control = article.querySelector('.decision');
    control.dataset.decides = number;
    control.setAttribute('aria-label', `Decision about region ${number}`);
    for (const text of article.querySelectorAll('.sr')) text.textContent = `about region ${number}`;
    for (const radio of article.querySelectorAll('input[type="radio"]')) radio.name = `decision-${number}`;
    article.querySelector('.clear').setAttribute('aria-label', `Take back what is not saved about region ${number}`);
    const rows = data.rows.filter((row) => placeOf(row) === at.join(' '));
    const history = article.querySelector('.history');
    history.hidden = !rows.length;
    history.append(...rows.map((row) => {
      const item = document.createElement('li');
      const by = document.createElement('span');
      by.className = 'quiet';
      by.textContent = `${row.when.slice(0, 16).replace('T', ' ')} UTC, ${row.who}:`;
      item.append(by, ` ${verdicts[row.decision]}`);
      if (row.comment) {
        const comment = document.createElement('q');
        comment.textContent = row.comment;
        item.append(' — ', comment);
      }
      return item;
    }));
    document.querySelector('#decide').append(article);
    return control;
  }

  const controls = [...regions.values()].map(controlOf);
  const numberOf = (control) => Number(control.dataset.decides);
  const told = new Map();

  function say(text, errors = []) {
    document.querySelector('#review-message').textContent = text;
    document.querySelector('#review-errors').replaceChildren(...errors.map((error) => {
      const item = document.createElement('li');
      item.textContent = error;
      return item;
    }));
  }

  function statusOf({ region, rows, last, stale, unsaved }) {
    if (stale) return `${last.who} decided on ${last.when.slice(0, 10)} about an earlier filling; look at this one.`;
    const asked = last?.decision === 'accept' && region.seen === 'scan' ? 'To be mended after all' : words[last?.decision];
    if (unsaved) return `${asked}, decided by ${last.who} on ${last.when.slice(0, 10)} — not yet in the table of the workflow.`;
    const remark = rows.some((row) => row.comment) ? ' A comment is not yet in the table of the workflow.' : '';
    return `${region.text}${region.when ? ' From the file.' : ''}${remark}`;
  }

  function show() {
    const kept = readKept();
    const who = recall(nameStore);
    const flags = new Set([...document.querySelectorAll('[data-region][data-flagged]')].map((element) => Number(element.dataset.region)));
    let decided = 0;
    let flagged = 0;
    let waiting = 0;
    for (const number of regions.keys()) {
      const state = stateOf(number, kept);
      // What was asked to be drawn again, and is, waits for a look; what is asked now is decided.
      const open = !state.decision || (state.decision === 'redraw' && !state.unsaved);
      decided += !open;
      flagged += open && flags.has(number);
      waiting += state.rows.length > 0;
      tell(number, open && (state.decision || state.stale) ? 'waits' : state.decision);
    }
    for (const control of controls) showControl(control, stateOf(numberOf(control), kept), who);
    document.querySelector('#review-who').textContent = who || 'no name yet';
    document.querySelector('#review-progress').textContent = `${decided} of ${regions.size} regions decided`
      + (flags.size ? `, ${flagged} flagged left` : '')
      + (waiting ? `; ${waiting} not yet in the table of the workflow` : '');
  }

  function showControl(control, state, who) {
    const waits = state.decision === 'redraw' && !state.unsaved;
    for (const radio of control.querySelectorAll('input[type="radio"]')) radio.checked = radio.value === state.decision && !waits;
    control.querySelector('.clear').disabled = !state.rows.length;
    control.querySelector('.decided').textContent = statusOf(state);
    control.dataset.decision = state.decision;
    control.classList.toggle('unsaved', state.rows.length > 0);
    const comment = control.querySelector('textarea');
    if (comment !== document.activeElement) comment.value = state.rows.findLast((row) => row.who === who)?.comment ?? '';
  }

  function tell(number, decision) {
    if ((told.get(number) ?? '') === decision) return;
    told.set(number, decision);
    document.dispatchEvent(new CustomEvent('cytomend:decision', { detail: { region: number, decision } }));
  }

  // --- the table -----------------------------------------------------------------------------------------------------

  // A spreadsheet would reckon what looks like a formula.
  const marked = (text) => (/^'?[=+\-@]/.test(text) ? `'${text}` : text);
  const cell = (value) => {
    const text = typeof value === 'string' ? marked(value) : String(value ?? '');
    return /["\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  function exportTable() {
    const kept = [...readKept()].flatMap(([at, { region, rows }]) => {
      const box = Object.fromEntries(boxColumns.map((column, i) => [column, at.split(' ')[i]]));
      return rows.map((row) => ({ section: data.section, region: regionAt.get(at) ?? region, ...box, ...row }));
    });
    const rows = [...data.rows, ...kept.toSorted(byTime)];
    const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((line) => line.map(cell).join('\t'));
    const link = document.createElement('a');
    // With a byte-order mark, by which spreadsheets know UTF-8.
    link.href = URL.createObjectURL(new Blob([`\uFEFF${lines.join('\n')}\n`], { type: 'text/tab-separated-values' }));
    link.download = `decisions-${data.section}-${now().replace(/[-:Z]/g, '')}.tsv`; // of its own, so that none replaces another
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Exported ${rows.length} row${rows.length === 1 ? '' : 's'} as ${link.download}. Give the file to whoever runs the workflow.`);
  }

  // Cells apart by tabs, quoted where they hold tabs, line ends or quotation marks; rows numbered as spreadsheets do.
  function parseTable(text) {
    const rows = [[]];
    let value = '';
    let quoted = false;
    const end = () => { rows.at(-1).push(value.trim().replace(/^'(?='?[=+\-@])/, '')); value = ''; };
    const source = text.replace(/^\uFEFF/, '').replace(/\r\n?/g, '\n');
    for (let i = 0; i < source.length; i += 1) {
      const c = source[i];
      if (quoted && c === '"' && source[i + 1] === '"') { value += c; i += 1; }
      else if (c === '"' && (quoted || value === '')) quoted = !quoted;
      else if (c === '\t' && !quoted) end();
      else if (c === '\n' && !quoted) { end(); rows.push([]); }
      else value += c;
    }
    end();
    if (quoted) throw new Error('a quoted cell has no end');
    return rows.map((cells, i) => [i + 1, cells]).filter(([, cells]) => cells.some(Boolean) && !cells[0].startsWith('#'));
  }

  function wrong(row) {
    if (!['', 'accept', 'leave', 'redraw'].includes(row.decision)) return `decision is “${row.decision}”, expected accept, leave, redraw or nothing`;
    if (!row.who) return 'has no name in the column who';
    const long = Object.entries(data.longest).find(([column, most]) => row[column].length > most);
    if (long) return `${long[0]} has ${row[long[0]].length} characters, ${long[1]} are possible`;
    if (!ISO.test(row.when) || Number.isNaN(Date.parse(row.when))) return `when is “${row.when}”, expected date and time as 2026-07-01T12:30:00Z`;
    return boxColumns.every((column) => /^\d+(\.0+)?$/.test(row[column])) ? '' : `its box and area (${boxColumns.join(', ')}) are not whole numbers`;
  }

  const ISO = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$/i;

  // A time without a zone is of UTC, as the workflow reads it.
  function inUtc(when) {
    if (!ISO.test(when)) return when;
    const text = when.trim().replace(' ', 'T');
    const time = new Date(/(Z|[+-]\d\d:?\d\d)$/i.test(text) || !text.includes('T') ? text : `${text}Z`);
    return Number.isNaN(time.getTime()) ? when : time.toISOString().replace(/\.\d+Z$/, 'Z');
  }

  function importTable(text, file) {
    const [[, header] = [], ...lines] = parseTable(text);
    const missing = columns.filter((column) => !['comment', 'decision', 'seen'].includes(column) && !header?.includes(column));
    const unknown = header?.find((column) => column && !columns.includes(column));
    const doubled = header?.find((column, i) => column && header.indexOf(column) !== i);
    if (missing.length || unknown !== undefined || doubled !== undefined) {
      const found = unknown !== undefined ? `column “${unknown}” is unknown` : doubled !== undefined ? `column ${doubled} is doubled` : `column ${missing[0]} is missing`;
      say('', [`${file}: ${found}; expected a table that a section's page exported`]);
      return;
    }
    const kept = readKept();
    const errors = [];
    const count = { taken: 0, known: 0, elsewhere: 0, gone: 0 };
    for (const [number, cells] of lines) {
      const row = Object.fromEntries(columns.map((column) => [column, cells[header.indexOf(column)] ?? '']));
      row.decision = row.decision.toLowerCase();
      row.when = inUtc(row.when);
      const at = placeOf(row);
      if (row.section !== data.section) count.elsewhere += 1;
      else if (cells.slice(header.length).some(Boolean)) errors.push(`${file}, row ${number}: ${cells.length} cells, expected at most ${header.length} as in the header`);
      else if (wrong(row)) errors.push(`${file}, row ${number}: ${wrong(row)}`);
      else if (!regionAt.has(at)) { count.gone += 1; errors.push(`${file}, row ${number}: region ${row.region} of that box and area is not on this page; not taken`); }
      else if (tabled(row, at) || kept.get(at)?.rows.some((other) => same(other, row)) || !(row.decision || row.comment)) count.known += 1;
      else {
        kept.set(at, { region: regionAt.get(at), rows: [...(kept.get(at)?.rows ?? []), plain(row)] });
        count.taken += 1;
      }
    }
    writeKept(kept);
    show();
    const parts = [`${count.taken} row${count.taken === 1 ? '' : 's'} taken from ${file}`];
    if (count.known) parts.push(`${count.known} known already`);
    if (count.elsewhere) parts.push(`${count.elsewhere} of other sections ignored`);
    say(`${parts.join(', ')}.`, errors);
  }

  // --- hands ---------------------------------------------------------------------------------------------------------

  function chosen() {
    const near = document.querySelector('.current[data-region]') ?? document.activeElement?.closest('[data-decides]');
    const number = Number(near?.dataset.decides ?? near?.dataset.region ?? window.location.hash.match(/^#region-(\d+)$/)?.[1]);
    return controls.find((control) => numberOf(control) === number);
  }

  function choose(decision) {
    const control = chosen();
    if (control) change(numberOf(control), { decision });
    else {
      say('Choose a region first.');
      document.querySelector('#hint')?.classList.add('asked');
    }
  }

  const decisionKeys = {
    a: () => choose('accept'),
    r: () => choose('leave'),
    e: () => choose('redraw'),
    n: () => chosen()?.querySelector('textarea').focus(),
  };

  function begin() {
    for (const element of document.querySelectorAll('[data-script][hidden]')) element.hidden = false;
    for (const control of controls) {
      const number = numberOf(control);
      const radios = [...control.querySelectorAll('input[type="radio"]')];
      radios.forEach((radio, i) => {
        radio.addEventListener('change', () => change(number, { decision: radio.value }));
        // An arrow must not decide: it moves between the choices, and the space bar decides. After a click it is the page's.
        radio.addEventListener('keydown', (event) => {
          const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
          if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          radios[(i + by + radios.length) % radios.length].focus();
        });
        radio.addEventListener('click', (event) => { if (event.detail) radio.blur(); });
      });
      const comment = control.querySelector('textarea');
      comment.addEventListener('input', () => { if (recall(nameStore)) change(number, { comment: comment.value.trim() }); });
      comment.addEventListener('change', () => { if (!recall(nameStore)) change(number, { comment: comment.value.trim() }); });
      control.querySelector('.clear').addEventListener('click', () => takeBack(number));
    }
    document.querySelector('#review-export').addEventListener('click', exportTable);
    document.querySelector('#review-rename').addEventListener('click', askName);
    const file = document.querySelector('#review-import');
    document.querySelector('#review-choose').addEventListener('click', () => file.click());
    file.addEventListener('change', async () => {
      const [given] = file.files;
      file.value = '';
      if (!given) return;
      try {
        importTable(new TextDecoder('utf-8', { fatal: true }).decode(await given.arrayBuffer()), given.name);
      } catch (error) {
        say('', [`${given.name}: ${error instanceof TypeError ? 'is not text in UTF-8; save it as such' : error.message}`]);
      }
    });
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
      if (event.target.matches?.('input[type="search"], input[type="text"], textarea')) return;
      const action = decisionKeys[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
    window.addEventListener('storage', (event) => { if (event.key === store || event.key === nameStore) show(); });
    writeKept(readKept()); // without what is in the table by now
    show();
  }

  if (data) begin();
}
