'use strict';
// The table of all sections: found, filtered, sorted, turned page by page; what is chosen stands in the address.
// A page of rows at a time and no endless list: a table of a hundred rows is read, tabbed through and printed as any other.
{
  const root = document.documentElement;
  window.addEventListener('error', (event) => { root.dataset.error = event.message; });

  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(one('#brain-data').textContent);
  const pageRows = 100;
  const order = new Intl.Collator('en', { numeric: true });

  // --- the sections -------------------------------------------------------------------------------------------------

  const rows = data.rows.map((values) => {
    const row = Object.fromEntries(data.columns.map((column, i) => [column, values[i]]));
    return Object.assign(row, {
      stain_text: data.stains[row.stain],
      way_text: data.ways[row.way],
      size_mm2: row.width_mm * row.height_mm,
      warned: row.warnings.length,
      // What was drawn again waits for a look, as what was never decided does.
      open: row.undecided + row.redrawn,
      kept: 0,
    });
  });
  rows.sort((a, b) => order.compare(a.section, b.section));
  for (const row of rows) row.words = `${row.section}\n${row.stain_text}\n${row.way_text}`.toLowerCase();

  // --- what is chosen: the fields show it, the address holds it -------------------------------------------------------

  const find = one('#find');
  const stain = one('#stain');
  const onlys = all('input[name="only"]');
  const heads = all('#sections th[data-sort]');
  const isNumber = (head) => head.classList.contains('number') || head.dataset.sort === 'open';
  let sort = { by: 'section', descending: false };
  let page = 0;

  function readAddress() {
    const told = new URLSearchParams(window.location.hash.slice(1));
    const only = (told.get('only') ?? '').split(',');
    const by = told.get('sort') ?? 'section';
    find.value = told.get('find') ?? '';
    stain.value = data.stains.includes(told.get('stain')) ? told.get('stain') : '';
    for (const box of onlys) box.checked = only.includes(box.value);
    sort = { by: by.replace(/^-/, ''), descending: by.startsWith('-') };
    if (!heads.some((head) => head.dataset.sort === sort.by)) sort = { by: 'section', descending: false };
    page = Math.max(0, (Number.parseInt(told.get('page'), 10) || 1) - 1);
  }

  function writeAddress() {
    const by = `${sort.descending ? '-' : ''}${sort.by}`;
    const only = onlys.filter((box) => box.checked).map((box) => box.value).join(',');
    const told = { find: find.value.trim(), stain: stain.value, only, sort: by === 'section' ? '' : by, page: page ? String(page + 1) : '' };
    const hash = new URLSearchParams(Object.entries(told).filter(([, value]) => value)).toString().replaceAll('%2C', ',');
    const current = window.location.hash.slice(1);
    if (hash === current || (!hash && !current.includes('='))) return;
    try {
      window.history.replaceState(null, '', `#${hash}`);
    } catch {
      // A browser that allows no more changes for a while; the next one will hold this one too.
    }
  }

  // --- which rows -----------------------------------------------------------------------------------------------------

  function chosenRows() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const only = onlys.filter((box) => box.checked).map((box) => box.value);
    const found = rows.filter((row) => (stain.value === '' || row.stain_text === stain.value)
      && only.every((name) => row[name] > 0) && words.every((word) => row.words.includes(word)));
    if (sort.by === 'section') return sort.descending ? found.reverse() : found;
    const way = sort.descending ? -1 : 1;
    const compare = sort.by.endsWith('_text') ? order.compare : (a, b) => a - b;
    // What is not known comes last in both directions; of equals, the order of names stays.
    return found.sort((a, b) => {
      const [x, y] = [a[sort.by], b[sort.by]];
      return x === null || y === null ? (x === null) - (y === null) : compare(x, y) * way;
    });
  }

  // --- how they are shown ---------------------------------------------------------------------------------------------

  const grouped = (text) => text.replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
  const whole = (number) => grouped(String(number));
  const plural = (number, word) => `${whole(number)} ${word}${number === 1 ? '' : 's'}`;

  function decimals(number, places) {
    const [before, after] = number.toFixed(places).split('.');
    return after === undefined ? grouped(before) : `${grouped(before)}.${after}`;
  }

  function percent(share) {
    const value = share * 100;
    if (!value) return '0';
    return value >= 10 ? value.toFixed(1) : value.toPrecision(2);
  }

  const errorOf = (share) => (share === null ? '–' : (share * 100).toFixed(1));
  const floorOf = (share) => (share === null ? '' : `floor ${(share * 100).toFixed(1)}`);
  const regionsOf = (row) => row.accepted + row.left + row.redrawn + row.undecided;

  function decided(row) {
    const parts = [[row.accepted, 'accepted'], [row.left, 'left'], [row.redrawn, 'redrawn']];
    return parts.filter(([number]) => number).map(([number, word]) => `${whole(number)} ${word}`).join(', ');
  }

  const texts = {
    section: (row) => row.section,
    stain_text: (row) => row.stain_text,
    way_text: (row) => row.way_text,
    size: (row) => `${decimals(row.width_mm, 1)} × ${decimals(row.height_mm, 1)}`,
    regions: (row) => whole(row.regions),
    mended_mm2: (row) => decimals(row.mended_mm2, 3),
    mended_share: (row) => percent(row.mended_share),
    copied_share: (row) => (row.copied_share === null ? '–' : percent(row.copied_share)),
    flagged: (row) => whole(row.flagged),
    open: (row) => (regionsOf(row) ? `${whole(row.open)} of ${whole(regionsOf(row))}` : '–'),
    decided,
    kept: (row) => (row.kept ? `${whole(row.kept)} decided here, not yet in the table of the workflow` : ''),
    density_error: (row) => errorOf(row.density_error),
    density_floor: (row) => floorOf(row.density_floor),
    cell_area_error: (row) => errorOf(row.cell_area_error),
    cell_area_floor: (row) => floorOf(row.cell_area_floor),
    gpu_hours: (row) => decimals(row.gpu_hours, 2),
    cpu_hours: (row) => decimals(row.cpu_hours, 2),
    cost: (row) => (row.cost === null ? '–' : decimals(row.cost, 2)),
  };

  const pattern = one('#row').content.firstElementChild;
  const body = one('#sections tbody');

  function drawRow(row, index) {
    const line = pattern.cloneNode(true);
    line.setAttribute('aria-rowindex', index + 2);
    for (const cell of all('[data-text]', line)) cell.textContent = texts[cell.dataset.text](row);
    one('a', line).href = row.page;
    one('img', line).src = row.page.slice(0, row.page.lastIndexOf('/') + 1) + data.thumbnail;
    one('[data-text="flagged"]', line).classList.toggle('attention', row.flagged > 0);
    const done = one('.done', line);
    done.hidden = !regionsOf(row);
    done.style.setProperty('--share', `${100 - (100 * row.open) / (regionsOf(row) || 1)}%`);
    if (row.warned) drawWarnings(row, one('.warned', line));
    return line;
  }

  function drawWarnings(row, cell) {
    one('details', cell).hidden = false;
    one('span', cell).hidden = true;
    one('summary', cell).textContent = whole(row.warned);
    one('summary', cell).setAttribute('aria-label', `${plural(row.warned, 'warning')} of section ${row.section}`);
    one('ul', cell).append(...row.warnings.map((number) => {
      const item = document.createElement('li');
      item.textContent = data.warnings[number];
      return item;
    }));
  }

  function drawNothing() {
    const line = document.createElement('tr');
    const cell = document.createElement('td');
    cell.colSpan = heads.length;
    cell.className = 'nothing';
    cell.textContent = 'No section fits.';
    line.append(cell);
    return line;
  }

  function show() {
    const found = chosenRows();
    const pages = Math.max(1, Math.ceil(found.length / pageRows));
    page = Math.min(page, pages - 1);
    const first = page * pageRows;
    const shown = found.slice(first, first + pageRows);
    body.replaceChildren(...(shown.length ? shown.map((row, i) => drawRow(row, first + i)) : [drawNothing()]));
    one('#sections').setAttribute('aria-rowcount', found.length + 1);
    one('#count').textContent = found.length === rows.length ? plural(rows.length, 'section') : `${whole(found.length)} of ${plural(rows.length, 'section')}`;
    one('#clear').hidden = found.length === rows.length;
    for (const head of heads) {
      if (head.dataset.sort === sort.by) head.setAttribute('aria-sort', sort.descending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    }
    for (const pager of all('.pager')) {
      pager.hidden = pages === 1;
      one('.place', pager).textContent = `${whole(first + 1)} – ${whole(first + shown.length)}`;
      one('[data-turn="-1"]', pager).disabled = page === 0;
      one('[data-turn="1"]', pager).disabled = page === pages - 1;
    }
    writeAddress();
  }

  // --- decisions that this browser keeps and the table of decisions does not hold yet ----------------------------------

  const stores = new Map(rows.map((row) => [`cytomend:${row.section}:${row.source}`, row]));

  function keptIn(text, row) {
    try {
      return Object.values(JSON.parse(text)).filter((entry) => [entry, ...(Array.isArray(entry?.earlier) ? entry.earlier : [])]
        .some((said) => said?.decision && isNew(said, row))).length;
    } catch {
      return 0;
    }
  }

  // A reviewer exports all that her browser keeps: what is no later than her last row in the table stands there.
  function isNew({ who, when }, row) {
    return !Object.hasOwn(row.reviewed_until, who) || Date.parse(when) > Date.parse(row.reviewed_until[who]);
  }

  function readKept() {
    const kept = new Map();
    try {
      for (let i = 0; i < window.localStorage.length; i += 1) {
        const key = window.localStorage.key(i);
        if (stores.has(key)) kept.set(stores.get(key), keptIn(window.localStorage.getItem(key), stores.get(key)));
      }
    } catch {
      kept.clear(); // a browser that keeps nothing for pages on disk
    }
    for (const row of rows) row.kept = kept.get(row) ?? 0;
    const sections = rows.filter((row) => row.kept);
    const decisions = sections.reduce((sum, row) => sum + row.kept, 0);
    one('#kept').hidden = !sections.length;
    one('#kept span').textContent = `${plural(decisions, 'decision')} of ${plural(sections.length, 'section')} `
      + `${decisions === 1 ? 'is' : 'are'} kept in this browser and not yet in the table of the workflow: export ${decisions === 1 ? 'it' : 'them'} on ${sections.length === 1 ? 'its page' : 'their pages'}.`;
    const box = onlys.find(({ value }) => value === 'kept');
    box.closest('label').hidden = !sections.length && !box.checked;
  }

  // --- hands ------------------------------------------------------------------------------------------------------------

  const begin = () => { page = 0; show(); };

  for (const head of heads) {
    one('button', head).addEventListener('click', () => {
      // The largest number first, the first letter first.
      const descending = sort.by === head.dataset.sort ? !sort.descending : isNumber(head);
      sort = { by: head.dataset.sort, descending };
      begin();
    });
  }
  for (const button of all('[data-turn]')) {
    button.addEventListener('click', () => {
      page += Number(button.dataset.turn);
      show();
      // The button that was pressed may have nowhere to go on to.
      if (button.disabled) one('[data-turn]:enabled', button.parentElement)?.focus();
      one('#sections-title').scrollIntoView();
    });
  }
  find.addEventListener('input', begin);
  stain.addEventListener('change', begin);
  for (const box of onlys) box.addEventListener('change', begin);
  one('#clear').addEventListener('click', () => {
    find.value = '';
    stain.value = '';
    for (const box of onlys) box.checked = false;
    find.focus();
    begin();
  });
  one('#kept button').addEventListener('click', () => {
    for (const box of onlys) box.checked = box.value === 'kept';
    begin();
  });
  window.addEventListener('hashchange', () => { readAddress(); show(); });
  // Decided in another tab, or on a page from which the reader comes back.
  window.addEventListener('storage', () => { readKept(); show(); });
  window.addEventListener('pageshow', (event) => { if (event.persisted) { readKept(); show(); } });

  for (const text of data.stains.toSorted(order.compare)) {
    if (text) stain.add(new Option(text, text));
  }
  one('#stains').hidden = data.stains.length < 2;
  new ResizeObserver(() => root.style.setProperty('--bar', `${one('#toolbar').offsetHeight}px`)).observe(one('#toolbar'));
  one('#toolbar').hidden = false;
  one('#frame').hidden = false;
  readAddress();
  readKept();
  show();
  root.dataset.ready = 'yes';
}
