'use strict';
// Shared by the page of a section and the page of the brain. No library, no request.

const root = document.documentElement;
window.addEventListener('error', (event) => { root.dataset.error = event.message; });

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// --- tables: a click on a column's head sorts by it -------------------------------------------------------------

const order = new Intl.Collator('en', { numeric: true });

function sortBy(head) {
  const table = head.closest('table');
  const column = [...head.parentElement.children].indexOf(head);
  const descending = head.getAttribute('aria-sort') === 'ascending';
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => order.compare(a, b) * (descending ? -1 : 1));
  if (head.dataset.kind === 'number') rows.sort(([a], [b]) => (a - b) * (descending ? -1 : 1));
  body.append(...rows.map(([, row]) => row));
  all('th', table).forEach((other) => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
}

for (const button of all('table.sortable th button')) {
  button.addEventListener('click', () => sortBy(button.closest('th')));
}

// --- tables: a text field shows only the rows that hold its words -----------------------------------------------

for (const field of all('input[data-filters]')) {
  const rows = all('tbody tr', document.getElementById(field.dataset.filters));
  const count = document.getElementById(field.getAttribute('aria-describedby'));
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  field.addEventListener('input', filter);
  filter();
}

// --- switches: outlines and tint, on the overview and on every picture ------------------------------------------

const switches = new Map(all('input[data-switch]').map((box) => [box.dataset.switch, box]));

function applySwitch(box) {
  root.classList.toggle(`show-${box.dataset.switch}`, box.checked);
}

for (const box of switches.values()) {
  box.addEventListener('change', () => applySwitch(box));
  applySwitch(box); // a browser may remember a switch over a reload
}

function flipSwitch(name) {
  const box = switches.get(name);
  if (!box) return;
  box.checked = !box.checked;
  applySwitch(box);
}

// --- curtains: left of the divider before, right of it after ----------------------------------------------------

const curtains = all('input.divider');

function draw(divider) {
  divider.closest('.curtain').style.setProperty('--at', `${divider.value}%`);
  const share = Number(divider.value);
  divider.setAttribute('aria-valuetext', share === 100 ? 'all before' : share === 0 ? 'all after' : `${share} % before`);
}

function setDividers(value) {
  for (const divider of curtains) {
    divider.value = value;
    draw(divider);
  }
}

for (const divider of curtains) {
  divider.addEventListener('input', () => draw(divider));
  draw(divider);
}

for (const button of all('button[data-dividers]')) {
  button.addEventListener('click', () => setDividers(button.dataset.dividers));
}

// Switching back and forth in place shows small changes better than a divider does.
function blink() {
  setDividers(curtains.length && Number(curtains[0].value) === 0 ? 100 : 0);
}

// --- steps from region to region --------------------------------------------------------------------------------

const cards = all('.card');
const bar = one('.toolbar');
const place = one('#place');

// What is jumped to must not end up under the bar, which is as high as its lines.
if (bar) new ResizeObserver(() => root.style.setProperty('--bar', `${bar.offsetHeight}px`)).observe(bar);

function barBottom() {
  return bar ? bar.getBoundingClientRect().bottom : 0;
}

function isSeen(card) {
  const box = card.getBoundingClientRect();
  return box.bottom > barBottom() && box.top < window.innerHeight;
}

// The region that was stepped to, as long as it is in sight; else the last one that begins above the fold.
function current() {
  const chosen = cards.findIndex((card) => card.classList.contains('current'));
  if (chosen >= 0 && isSeen(cards[chosen])) return chosen;
  const edge = barBottom() + 40;
  return cards.findLastIndex((card) => card.getBoundingClientRect().top <= edge);
}

function mark(index) {
  cards.forEach((card, i) => card.classList.toggle('current', i === index));
  if (place) place.textContent = `region ${cards[index].dataset.region}, ${index + 1} of ${cards.length}`;
}

function step(by) {
  if (!cards.length) return;
  const index = Math.min(Math.max(current() + by, 0), cards.length - 1);
  mark(index);
  cards[index].scrollIntoView({ block: 'start' });
  one('input.divider', cards[index]).focus({ preventScroll: true });
}

function markTarget() {
  const index = cards.findIndex((card) => `#${card.id}` === window.location.hash);
  if (index >= 0) mark(index);
}

window.addEventListener('hashchange', markTarget);
markTarget();
one('#previous')?.addEventListener('click', () => step(-1));
one('#next')?.addEventListener('click', () => step(1));

// --- keys -------------------------------------------------------------------------------------------------------

const keys = {
  j: () => step(1),
  k: () => step(-1),
  b: blink,
  o: () => flipSwitch('outlines'),
  t: () => flipSwitch('tint'),
};
const arrows = { ArrowRight: () => step(1), ArrowLeft: () => step(-1) };

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.('input[type="search"], input[type="text"], textarea');
  const sliding = event.target.matches?.('input');
  const action = typing ? undefined : keys[event.key] ?? (sliding ? undefined : arrows[event.key]);
  if (!action) return;
  event.preventDefault();
  action();
});

root.dataset.ready = 'yes';
